"""The prompts and settings of a generation, and the texts that it returns."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sharelora.evaluation.tokens import Encoded, encode_prompts, too_long
from sharelora.support.errors import UserError

Ended = Literal["eos", "stop", "length"]
# The index of a prompt, and the number of a sample of it.
Key = tuple[int, int]


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Args:
        prefix: its beginning, worth reading once if other prompts have the same: worked examples.
        text: the rest of it.
        name: what its random numbers depend on; by default its index among the prompts.
    """

    prefix: str
    text: str
    name: str = ""


@dataclass(frozen=True)
class GenerationSettings:
    """How texts are generated.

    Args:
        max_new_tokens: the most tokens of a text, its end token included.
        temperature: divides the logits before a token is sampled; 0 takes the likeliest token every time.
        top_p: sample from the fewest likeliest tokens whose probabilities add up to this (nucleus sampling, Holtzman et
            al. 2020).
        stop: a text ends before the first of these strings.
        seed: of the sampling.
        samples: texts per prompt.

    Raises:
        UserError: a value out of range.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    samples: int = 1

    def __post_init__(self) -> None:
        for name, value in (("max_new_tokens", self.max_new_tokens), ("samples", self.samples)):
            if value < 1:
                raise UserError(f"found --{name} {value}; need at least 1; change it")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"found --temperature {self.temperature}; need a number of at least 0; change it")
        if not 0 < self.top_p <= 1:
            raise UserError(f"found --top_p {self.top_p}; need a number above 0 and at most 1; change it")
        if isinstance(self.stop, str) or not all(self.stop):
            raise UserError(
                f"found --stop {self.stop!r}; need texts of at least one character; leave out the empty ones"
            )
        if self.samples > 1 and self.greedy:
            raise UserError(
                f"found --samples {self.samples} with --temperature 0, which would give the same text every time; need "
                "a temperature above 0; set --temperature or --samples 1"
            )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken every time, so that nothing is random."""
        return self.temperature == 0

    def deciding(self) -> dict[str, Any]:
        """Return the settings that decide a text as JSON data; the number of samples does not."""
        facts = {name: value for name, value in asdict(self).items() if name != "samples"}
        return {**facts, "stop": list(self.stop)}


@dataclass(frozen=True)
class Generated:
    """One text.

    Args:
        text: what follows the prompt, without end token or stop string.
        tokens: how many the model has generated, those included.
        ended: by its end token, by a stop string, or at the most tokens allowed.
        seconds: its share of the time of its batch.
    """

    text: str
    tokens: int
    ended: Ended
    seconds: float = field(default=0.0, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The text as part of a record of predictions."""
        return {"text": self.text, "tokens": self.tokens, "ended": self.ended}


def encode(tokenizer: Any, prompts: Sequence[Prompt], begin: Sequence[int] | None = None) -> list[Encoded]:
    """Tokenise prompts; each one whole, so sharing a prefix changes no token.

    Args:
        tokenizer: the model's.
        prompts: the texts.
        begin: what each begins with; by default the begin token, as in training.

    Raises:
        UserError: a prompt has no tokens.
    """
    parts = encode_prompts(tokenizer, [(prompt.prefix, prompt.text) for prompt in prompts], begin)
    encoded = [Encoded(start, rest, group=prompt.name) for prompt, (start, rest) in zip(prompts, parts, strict=True)]
    empty = [index for index, prompt in enumerate(encoded) if not prompt.length]
    if empty:
        raise UserError(
            f"found {len(empty)} prompts without tokens, first number {empty[0] + 1}; need text; check them"
        )
    return encoded


def require_room(encoded: Sequence[Encoded], settings: GenerationSettings, context: int | None) -> None:
    """Refuse prompts that do not fit into the model's context together with a text; nothing is ever cut.

    Args:
        encoded: the prompts.
        settings: of the generation.
        context: most tokens that the model can read; None for no limit.

    Raises:
        UserError: how many there are, and the longest.
    """
    if context is None:
        return
    new = settings.max_new_tokens
    if new >= context:
        raise UserError(f"found --max_new_tokens {new} and a context of {context}; need room for a prompt; lower it")
    long = too_long(encoded, context - new)
    if long:
        raise UserError(
            f"found {len(long)} of {len(encoded)} prompts with more than {context - new} tokens, the longest "
            f"{max(encoded[index].length for index in long)}; need prompt and {new} new tokens within {context}; lower "
            "--max_new_tokens, give fewer examples, or use a model with a longer context"
        )


def fingerprint(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Return what tells these prompts from others."""
    texts = [[prompt.prefix + prompt.text, prompt.name] for prompt in prompts]
    return {"prompts": len(texts), "prompts_sha256": hashlib.sha256(json.dumps(texts).encode()).hexdigest()}
