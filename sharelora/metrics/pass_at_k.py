"""pass@k: how likely it is that at least one of k samples of a task is right (Chen et al. 2021, section 2.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Estimate pass@k of one task without bias: the share of all choices of k samples that have a right one in them.

    1 - C(samples - passed, k) / C(samples, k), as a product whose logarithm is summed: binomial coefficients of large
    numbers cannot be held, and 1 minus almost 1 loses digits.

    Args:
        samples: of the task.
        passed: how many of them are right.
        k: how many are chosen.

    Raises:
        ValueError: more right samples than samples, or k outside 1 to samples.
    """
    if not (0 <= passed <= samples and 1 <= k <= samples):
        raise ValueError(
            f"{passed} right of {samples} samples and k {k}; need 0 <= right <= samples and 1 <= k <= samples"
        )
    if samples - passed < k:
        return 1.0
    return -math.expm1(math.fsum(math.log1p(-k / size) for size in range(samples - passed + 1, samples + 1)))


@dataclass(frozen=True)
class Mean:
    """pass@k over tasks.

    Args:
        mean: of the tasks' estimates.
        standard_error: of that mean, from the sample variance over tasks; None for a single task.
    """

    mean: float
    standard_error: float | None


def over_tasks(counts: Sequence[tuple[int, int]], k: int) -> Mean:
    """The mean of pass@k over tasks.

    Args:
        counts: for each task its samples and how many of them are right.
        k: see `pass_at_k`.

    Raises:
        ValueError: there are no tasks, or see `pass_at_k`.
    """
    if not counts:
        raise ValueError("no tasks to score")
    values, size = [pass_at_k(samples, passed, k) for samples, passed in counts], len(counts)
    mean = math.fsum(values) / size
    spread = math.fsum((value - mean) ** 2 for value in values)
    return Mean(mean, math.sqrt(spread / (size - 1) / size) if size > 1 else None)
