"""The learning rate over the updates of a run: LoRA's schedules, which count updates here and batches there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

from sharelora.support.errors import UserError

# Update -> factor of the learning rate.
Factor = Callable[[int], float]


def _warming(step: int, warmup: int) -> float | None:
    return step / warmup if step < warmup else None


def linear(warmup: int, total: int) -> Factor:
    """Up to the full rate over the warm-up, then down to zero at the end."""

    def factor(step: int) -> float:
        up = _warming(step, warmup)
        return max(0.0, (total - step) / max(1, total - warmup)) if up is None else up

    return factor


def constant(warmup: int, total: int) -> Factor:
    """Up to the full rate over the warm-up, then the same."""

    def factor(step: int) -> float:
        up = _warming(step, warmup)
        return 1.0 if up is None else up

    return factor


def cosine(warmup: int, total: int) -> Factor:
    """Up over the warm-up, then along a cosine that began with the first update, as LoRA's does."""

    def factor(step: int) -> float:
        up = _warming(step, warmup)
        return 0.5 * (1 + math.cos(math.pi * min(step, total) / max(1, total))) if up is None else up

    return factor


SCHEDULES: Mapping[str, Callable[[int, int], Factor]] = {"linear": linear, "constant": constant, "cosine": cosine}


def read_cycle(steps: str, rates: str) -> list[tuple[int, float]]:
    """Read the corners of the schedule `cycle`.

    Args:
        steps: updates, `0,500,2000`.
        rates: learning rates there, `0,0.0002,0`.

    Returns:
        The corners.

    Raises:
        UserError: no numbers, not as many of one as of the other, fewer than two, or updates that do not rise from 0.
    """
    try:
        corners = list(zip(map(int, steps.split(",")), map(float, rates.split(",")), strict=True))
    except ValueError as error:
        raise UserError(
            f"found i_steps {steps} and i_lrs {rates}; need as many whole numbers as rates, with commas between them; "
            "change --i_steps and --i_lrs"
        ) from error
    at = [step for step, _ in corners]
    if len(at) < 2 or at[0] != 0 or any(later <= earlier for earlier, later in itertools.pairwise(at)):
        raise UserError(f"found i_steps {steps}; need at least two that rise from 0; change --i_steps")
    return corners


def cycle(corners: list[tuple[int, float]], rate: float) -> Factor:
    """Straight lines between corners, as factors of a rate."""

    def factor(step: int) -> float:
        for (start, low), (end, high) in itertools.pairwise(corners):
            if step < end:
                part = (step - start) / (end - start)
                return ((1 - part) * low + part * high) / rate
        return corners[-1][1] / rate

    return factor
