"""What a generation is told, and what it returns."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sharelora.support.errors import UserError

Ended = Literal["eos", "stop", "length"]
# The place of a prompt, and the number of a sample of it.
Key = tuple[int, int]


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Args:
        prefix: its beginning, worth encoding once if other prompts have the same: worked examples.
        text: the rest of it.
        name: what its draws depend on; by default its place among the prompts.
    """

    prefix: str
    text: str
    name: str = ""


@dataclass(frozen=True)
class GenerationSettings:
    """How texts are generated.

    Args:
        max_new_tokens: the most tokens of a text, its end token included.
        temperature: divides the logits before a token is drawn; 0 takes the likeliest token every time.
        top_p: draw from the fewest likeliest tokens that together are as likely as this (nucleus sampling, Holtzman et
            al. 2020).
        stop: a text ends before the first of these.
        seed: of the draws.
        samples: texts per prompt.

    Raises:
        UserError: a value that means nothing.
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
                f"found --stop {self.stop!r}; need texts of at least one character; leave out what is empty"
            )
        if self.samples > 1 and self.greedy:
            raise UserError(
                f"found --samples {self.samples} with --temperature 0, which would give the same text every time; need "
                "a temperature above 0; set --temperature or --samples 1"
            )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken every time, so that nothing is drawn."""
        return self.temperature == 0

    def deciding(self) -> dict[str, Any]:
        """Return what decides a text as JSON data; how many samples there are does not."""
        facts = {name: value for name, value in asdict(self).items() if name != "samples"}
        return {**facts, "stop": list(self.stop)}


@dataclass(frozen=True)
class Generated:
    """One text.

    Args:
        text: what follows the prompt, without end token or stop string.
        tokens: how many the model has generated, those included.
        ended: by what: its end token, a stop string, or the most tokens allowed.
        seconds: its share of the time of its batch.
    """

    text: str
    tokens: int
    ended: Ended
    seconds: float = field(default=0.0, compare=False)
