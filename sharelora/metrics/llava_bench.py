"""LLaVA-Bench's score: points of a model relative to those of the reference, by kind of question and over all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Points = tuple[float | None, float | None]  # of the reference, of the model


@dataclass(frozen=True)
class Relative:
    """The score of some questions.

    Args:
        reference: mean points of the reference's answers.
        model: mean points of the model's.
        count: questions that count.
        unreadable: questions whose rating has no points; they count for nothing. (LLaVA counts them as -1.)
    """

    reference: float
    model: float
    count: int
    unreadable: int

    @property
    def percent(self) -> float:
        """The model's points in percent of the reference's; nan where there are none."""
        return 100 * self.model / self.reference if self.reference else math.nan


def relative(points: Sequence[Points]) -> Relative:
    """Score a set of ratings.

    Raises:
        ValueError: no rating has points.
    """
    good = [(reference, model) for reference, model in points if reference is not None and model is not None]
    if not good:
        raise ValueError("no ratings with points")
    reference, model = (math.fsum(pair[side] for pair in good) / len(good) for side in (0, 1))
    return Relative(reference, model, len(good), len(points) - len(good))
