"""Accuracies against numbers worked out by hand and against the statistics of the standard library."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharelora.metrics.accuracy import (
    Accuracy,
    accuracy,
    by_category,
    by_group,
    chance,
    macro,
    macro_standard_error,
    micro,
)

RIGHT = [True, True, False, True, False, False, False, True]
GROUPS = ["a", "a", "b", "b", "b", "b", "c", "c"]


def test_means_over_questions_and_groups() -> None:
    scores = by_group(RIGHT, GROUPS)
    assert scores == {"a": Accuracy(2, 2), "b": Accuracy(1, 4), "c": Accuracy(1, 2)}
    assert micro(scores) == accuracy(RIGHT) == Accuracy(4, 8)
    assert macro(scores) == pytest.approx((1 + 0.25 + 0.5) / 3)


def test_categories_count_questions() -> None:
    scores = by_category(by_group(RIGHT, GROUPS), lambda group: "first" if group == "a" else "rest")
    assert scores == {"first": Accuracy(2, 2), "rest": Accuracy(2, 6)}


@given(st.lists(st.booleans(), min_size=2, max_size=50))
def test_the_standard_error_is_that_of_a_mean(right: list[bool]) -> None:
    expected = statistics.stdev(float(value) for value in right) / math.sqrt(len(right))
    assert accuracy(right).standard_error == pytest.approx(expected)


def test_one_question_has_no_standard_error() -> None:
    assert accuracy([True]).standard_error is None
    assert macro_standard_error(by_group([True, False, True], ["a", "a", "b"])) is None


def test_the_macro_error_adds_up_independent_ones() -> None:
    scores = by_group(RIGHT, GROUPS)
    assert macro_standard_error(scores) == pytest.approx(math.sqrt(0 + 0.0625 + 0.25) / 3)


def test_chance_is_the_mean_of_guessing() -> None:
    assert chance([4, 4, 2]) == pytest.approx(1 / 3)


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="no answers"):
        accuracy([])
    with pytest.raises(ValueError):
        by_group([True], [])
