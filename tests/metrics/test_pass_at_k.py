"""pass@k against its definition: the share of all choices of k samples that have a right one among them."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import comb

import pytest

from sharelora.metrics.pass_at_k import over_tasks, pass_at_k


@pytest.mark.parametrize("samples", range(1, 9))
def test_it_is_the_share_of_choices_with_a_right_sample(samples: int) -> None:
    for passed, k in itertools.product(range(samples + 1), range(1, samples + 1)):
        choices = list(itertools.combinations([place < passed for place in range(samples)], k))
        expected = Fraction(sum(map(any, choices)), len(choices))
        assert pass_at_k(samples, passed, k) == pytest.approx(float(expected), abs=1e-14)


@pytest.mark.parametrize(
    ("samples", "passed", "k"), [(200, 3, 100), (1000, 1, 1), (10_000, 1, 10), (100_000, 40, 100), (100_000, 1, 99_999)]
)
def test_large_numbers_are_exact_to_many_digits(samples: int, passed: int, k: int) -> None:
    expected = 1 - Fraction(comb(samples - passed, k), comb(samples, k))
    assert pass_at_k(samples, passed, k) == pytest.approx(float(expected), rel=1e-10)


def test_the_ends() -> None:
    assert [pass_at_k(5, 0, k) for k in (1, 5)] == [0.0, 0.0]
    assert [pass_at_k(5, 5, k) for k in (1, 5)] == [1.0, 1.0]
    assert pass_at_k(1, 1, 1) == 1.0 and pass_at_k(5, 1, 5) == 1.0
    assert pass_at_k(7, 3, 1) == pytest.approx(3 / 7)


@pytest.mark.parametrize("values", [(5, 6, 1), (5, -1, 1), (5, 1, 6), (5, 1, 0), (0, 0, 1)])
def test_what_cannot_be_is_refused(values: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="need 0 <= right <= samples and 1 <= k <= samples"):
        pass_at_k(*values)


def test_tasks_count_alike_however_many_samples_they_have() -> None:
    found = over_tasks([(1, 1), (10, 0), (4, 2)], 1)
    assert found.mean == pytest.approx(0.5)
    assert found.standard_error == pytest.approx((0.5 / 2 / 3) ** 0.5)
    assert over_tasks([(3, 1)], 2).standard_error is None
    with pytest.raises(ValueError, match="no tasks"):
        over_tasks([], 1)
