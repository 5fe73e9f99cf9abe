"""Average, forgetting and transfer on matrices whose values are worked out by hand."""

from __future__ import annotations

import random

import pytest

from sharelora.metrics.continual import Matrix, Summary, summarise

# Rows: untouched, after task 1, 2, 3. Columns: tasks 1, 2, 3.
SCORES = [
    [0.1, 0.2, 0.3],
    [0.8, 0.3, 0.2],
    [0.9, 0.7, 0.5],
    [0.6, 0.5, 0.9],
]


def by_the_definitions(good: Matrix) -> Summary:
    """The papers' sums with tasks counted from 1, written as they stand there."""
    tasks = len(good) - 1

    def score(stage: int, task: int) -> float:
        return good[stage][task - 1]

    lost = [max(score(stage, task) for stage in range(1, tasks)) - score(tasks, task) for task in range(1, tasks)]
    back = [score(tasks, task) - score(task, task) for task in range(1, tasks)]
    ahead = [score(task - 1, task) - score(0, task) for task in range(2, tasks + 1)]
    last = [score(tasks, task) for task in range(1, tasks + 1)]
    return Summary(sum(last) / tasks, sum(lost) / (tasks - 1), sum(back) / (tasks - 1), sum(ahead) / (tasks - 1))


def numbers(summary: Summary) -> tuple[float, ...]:
    return summary.average, summary.forgetting, summary.backward, summary.forward


def test_a_matrix_by_hand() -> None:
    found = summarise(SCORES)
    assert found.average == pytest.approx(2.0 / 3)
    # Task 1 was best after task 2: 0.9 - 0.6. Task 2: 0.7 - 0.5.
    assert found.forgetting == pytest.approx((0.3 + 0.2) / 2)
    assert found.backward == pytest.approx((-0.2 - 0.2) / 2)
    # Task 2 just before it is learnt: 0.3 - 0.2. Task 3: 0.5 - 0.3.
    assert found.forward == pytest.approx((0.1 + 0.2) / 2)


def test_losses_have_the_signs_of_accuracies() -> None:
    losses = [[2 - score for score in row] for row in SCORES]
    found, expected = summarise(losses, lower_is_better=True), summarise(SCORES)
    assert found.average == pytest.approx(2 - expected.average), "the mean loss itself"
    assert numbers(found)[1:] == pytest.approx(numbers(expected)[1:])


@pytest.mark.parametrize("tasks", [2, 3, 7])
def test_matrices_of_any_size_are_what_the_definitions_say(tasks: int) -> None:
    rng = random.Random(tasks)
    matrix = [[rng.random() for _ in range(tasks)] for _ in range(tasks + 1)]
    assert numbers(summarise(matrix)) == pytest.approx(numbers(by_the_definitions(matrix)))


def test_a_task_that_is_best_before_it_is_learnt_counts_so() -> None:
    found = summarise([[0.0, 0.0, 0.0], [0.5, 0.9, 0.0], [0.5, 0.4, 0.0], [0.5, 0.3, 0.0]])
    assert found.forgetting == pytest.approx((0.0 + 0.6) / 2)


@pytest.mark.parametrize(
    "matrix",
    [[], [[0.1], [0.2]], [[0.1, 0.2], [0.1, 0.2]], [[0.1, 0.2], [0.1], [0.1, 0.2]], [[0.1, float("nan")]] * 3],
    ids=["empty", "one task", "a row too few", "a short row", "no number"],
)
def test_what_is_no_matrix_is_refused(matrix: Matrix) -> None:
    with pytest.raises(ValueError, match=r"need T|finite"):
        summarise(matrix)
