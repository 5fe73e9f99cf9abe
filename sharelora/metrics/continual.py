"""Continual learning: the average score, forgetting, and transfer between tasks learnt one after the other.

Everything is read off a matrix R with T + 1 rows and T columns: R[i][j] is the score on task j after task i was learnt,
tasks counted from 1, and R[0] are the scores of the untouched model. Average, backward and forward transfer are those
of GEM (Lopez-Paz & Ranzato 2017, section 2), whose reference for forward transfer is a model at its random start; here
it is the pre-trained model. Forgetting is that of Chaudhry et al. 2018 (Riemannian Walk).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Matrix = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Summary:
    """A sequence of tasks in four numbers.

    Attributes:
        average: the mean score over all tasks at the end, in the score's own unit.
        forgetting: how far, on average, an earlier task has fallen from its best; more is worse.
        backward: what later tasks did to earlier ones, on average; below 0 they did harm.
        forward: how much better a task is, just before it is learnt, than on the untouched model; below 0 the tasks
            before it did harm.
    """

    average: float
    forgetting: float
    backward: float
    forward: float


def summarise(matrix: Matrix, lower_is_better: bool = False) -> Summary:
    """Return the four numbers of a matrix.

    The three differences are of goodness: for a score where less is better, such as a loss, they are taken of its
    negative, so that their signs mean the same as for accuracies.

    Args:
        matrix: T + 1 rows of T scores, the untouched model's first.
        lower_is_better: whether the scores are losses.

    Raises:
        ValueError: fewer than two tasks, another shape, or a score that is NaN or infinite.
    """
    require_matrix(matrix)
    sign = -1.0 if lower_is_better else 1.0
    good = [[sign * score for score in row] for row in matrix]
    return Summary(average(matrix), forgetting(good), backward_transfer(good), forward_transfer(good))


def require_matrix(matrix: Matrix) -> None:
    """Check that there are T + 1 rows of T finite scores and at least two tasks.

    Raises:
        ValueError: see above.
    """
    tasks = len(matrix) - 1
    if tasks < 2 or any(len(row) != tasks for row in matrix):
        raise ValueError(f"rows of {[len(row) for row in matrix]} scores; need T + 1 rows of T, and T at least 2")
    if not all(math.isfinite(score) for row in matrix for score in row):
        raise ValueError("a score is NaN or infinite")


def average(matrix: Matrix) -> float:
    """The mean over all tasks after the last one was learnt (GEM's ACC)."""
    return _mean(len(matrix) - 1, lambda task: matrix[-1][task])


def forgetting(good: Matrix) -> float:
    """The mean over all tasks but the last of the best score after any earlier stage, less the score at the end.

    As in the paper the untouched model is not among the stages, and a stage before the task itself is.

    Args:
        good: scores where more is better.
    """
    return _mean(len(good) - 2, lambda task: max(row[task] for row in good[1:-1]) - good[-1][task])


def backward_transfer(good: Matrix) -> float:
    """The mean over all tasks but the last of the score at the end, less that just after the task was learnt.

    Args:
        good: scores where more is better.
    """
    return _mean(len(good) - 2, lambda task: good[-1][task] - good[task + 1][task])


def forward_transfer(good: Matrix) -> float:
    """The mean over all tasks but the first of the score just before the task is learnt, less the untouched model's.

    Args:
        good: scores where more is better.
    """
    return _mean(len(good) - 2, lambda task: good[task + 1][task + 1] - good[0][task + 1])


def _mean(count: int, value: Callable[[int], float]) -> float:
    return math.fsum(map(value, range(count))) / count
