"""What a beam search is told."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from sharelora.support.errors import UserError


@dataclass(frozen=True)
class BeamSettings:
    """How texts are searched; names and defaults are those of LoRA's gpt2_beam.py.

    Args:
        eos_ids: tokens that end a text.
        beam: how many texts are kept per prompt and step.
        eval_len: the most tokens of a text, its end token included.
        min_length: tokens before which no end token may come.
        length_penalty: texts are ranked by (sum of log p) / length ** length_penalty, the end token counted.
        no_repeat_ngram_size: no sequence of so many tokens comes twice in a text; 0 allows it. The prompt does not
            count.
        repetition_penalty: logits of tokens that a text has already are divided by this if positive and multiplied if
            negative (CTRL, Keskar et al. 2019). The prompt does not count.

    Raises:
        UserError: a value that means nothing.
    """

    eos_ids: tuple[int, ...]
    beam: int = 1
    eval_len: int = 256
    min_length: int = 0
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 4
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        at_least_1 = {"beam": self.beam, "eval_len": self.eval_len}
        at_least_0 = {"min_length": self.min_length, "no_repeat_ngram_size": self.no_repeat_ngram_size}
        for least, values in ((1, at_least_1), (0, at_least_0)):
            for name, value in values.items():
                if value < least:
                    raise UserError(f"found --{name} {value}; need at least {least}; change it")
        if self.min_length > self.eval_len:
            raise UserError(
                f"found --min_length {self.min_length}; need at most --eval_len, which is {self.eval_len}; change one"
            )
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise UserError(
                f"found --repetition_penalty {self.repetition_penalty}; need a number above 0 (1 changes nothing)"
            )
        if not math.isfinite(self.length_penalty):
            raise UserError(f"found --length_penalty {self.length_penalty}; need a number (0 ignores the length)")
        if not self.eos_ids:
            raise UserError("found no end token; need at least one; add --eos_token_id")

    def data(self) -> dict[str, Any]:
        """Return the fields as JSON data."""
        return {**asdict(self), "eos_ids": list(self.eos_ids)}

    def require_vocabulary(self, size: int) -> None:
        """Refuse what a vocabulary of this size cannot have.

        Raises:
            UserError: an end token outside it, or more beams than tokens.
        """
        outside = [token for token in self.eos_ids if not 0 <= token < size]
        if outside:
            raise UserError(
                f"found end token {outside[0]}; need a token below {size}, the size of the vocabulary; "
                "change --eos_token_id"
            )
        if self.beam > size:
            raise UserError(
                f"found --beam {self.beam} with a vocabulary of {size} tokens; need no more beams than that"
            )
