"""The settings of a beam search, and the logits processors where LoRA's gpt2_beam.py differs from transformers.

There the history is only the generated text: words of the prompt may come again, and do not become less likely. And
logits are changed before they become probabilities, so that what is forbidden leaves its probability to the rest.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from sharelora.support.errors import UserError


@dataclass(frozen=True)
class BeamSettings:
    """How texts are searched; names and defaults are those of LoRA's gpt2_beam.py.

    Args:
        eos_ids: tokens that end a text.
        beam: texts kept per prompt and step.
        eval_len: the most tokens of a text, its end token included.
        min_length: tokens before which no end token may come.
        length_penalty: texts are ranked by (sum of log p) / length ** length_penalty, the end token counted.
        no_repeat_ngram_size: no sequence of this many tokens comes twice in a text; 0 allows it. The prompt does not
            count.
        repetition_penalty: logits of tokens that a text already has are divided by this if positive and multiplied if
            negative (CTRL, Keskar et al. 2019). The prompt does not count.

    Raises:
        UserError: a value out of range.
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
        """Refuse settings that a vocabulary of this size does not allow.

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


class RepetitionPenalty(LogitsProcessor):
    """Makes tokens less likely that were generated before.

    Args:
        penalty: divides positive logits, multiplies negative ones.
        prompt: tokens at the start of a row that do not count.
    """

    def __init__(self, penalty: float, prompt: int) -> None:
        self.penalty, self.prompt = penalty, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Change logits (B, vocabulary) in place; a token that came several times is penalised once."""
        generated = input_ids[:, self.prompt :]
        logits = scores.gather(1, generated)
        return scores.scatter_(1, generated, torch.where(logits < 0, logits * self.penalty, logits / self.penalty))


class MinLength(LogitsProcessor):
    """Forbids end tokens until a text is long enough.

    Args:
        length: tokens that must come before an end token.
        eos_ids: the end tokens.
        prompt: tokens at the start of a row that do not count.
    """

    def __init__(self, length: int, eos_ids: tuple[int, ...], prompt: int) -> None:
        self.length, self.eos_ids, self.prompt = length, list(eos_ids), prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Change logits (B, vocabulary) in place."""
        if input_ids.shape[1] - self.prompt < self.length:
            scores[:, self.eos_ids] = -torch.inf
        return scores


class NoRepeatedNgram(LogitsProcessor):
    """Forbids tokens that would complete a sequence of n tokens that the text already has.

    Args:
        size: n.
        prompt: tokens at the start of a row that do not count.
    """

    def __init__(self, size: int, prompt: int) -> None:
        self.size, self.prompt = size, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Change logits (B, vocabulary) in place."""
        generated = input_ids[:, self.prompt :]
        if generated.shape[1] < self.size:
            return scores
        ngrams = generated.unfold(1, self.size, 1)
        last = generated[:, generated.shape[1] - self.size + 1 :]
        rows, matches = (ngrams[:, :, :-1] == last[:, None]).all(-1).nonzero(as_tuple=True)
        scores[rows, ngrams[rows, matches, -1]] = -torch.inf
        return scores


def processors(settings: BeamSettings, prompt: int) -> LogitsProcessorList:
    """Return the processors that the settings need, in upstream's order.

    Args:
        settings: of the search.
        prompt: the tokens of a prompt, its padding included.
    """
    active: list[LogitsProcessor] = []
    if settings.repetition_penalty != 1:
        active.append(RepetitionPenalty(settings.repetition_penalty, prompt))
    if settings.min_length:
        active.append(MinLength(settings.min_length, settings.eos_ids, prompt))
    if settings.no_repeat_ngram_size:
        active.append(NoRepeatedNgram(settings.no_repeat_ngram_size, prompt))
    return LogitsProcessorList(active)
