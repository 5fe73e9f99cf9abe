"""GSM8K: word problems with worked answers that end in `#### number`, and the prompts that ask them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from sharelora.data.formats import FORMATS, gsm8k_demonstrations
from sharelora.data.items import load_items
from sharelora.data.readers import BadCell, Row, cell, summary
from sharelora.support.numbers import whole_number

SHOTS = len(gsm8k_demonstrations())
# A model that goes on after its answer asks the next question.
STOP = ("\nQuestion:",)


@dataclass(frozen=True)
class Problem:
    """One word problem.

    Args:
        question: the problem.
        solution: the worked answer, as published.
        answer: the number that it ends with.
    """

    question: str
    solution: str
    answer: Fraction

    @property
    def prompt(self) -> str:
        """The problem as models are tuned to read it."""
        return FORMATS["GSM8K"][0].prompt({"question": self.question})


def load_gsm8k(split: str = "test", root: str | Path | None = None) -> list[Problem]:
    """Load one split.

    Args:
        split: `train` or `test`.
        root: folder of local data with `gsm8k/<split>.jsonl`, see `sharelora.data.items.load_items`.

    Raises:
        UserError: no data, or a malformed row (file and row are named).
    """
    return load_items("gsm8k", split, _problem, root)


def examples(shots: int) -> str:
    """The first worked examples, as they stand before every problem.

    Args:
        shots: how many, up to `SHOTS`.
    """
    return "".join(gsm8k_demonstrations()[:shots])


def _problem(row: Row) -> Problem:
    question, solution = cell(row, "question"), cell(row, "answer")
    _, mark, text = solution.rpartition("####")
    answer = whole_number(text) if mark else None
    if answer is None:
        raise BadCell(f"no '#### number' at the end of column answer: '{summary(solution[-60:])}'")
    return Problem(question, solution, answer)
