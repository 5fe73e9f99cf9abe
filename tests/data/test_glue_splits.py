"""Rows are held out by the seed alone, each label keeping its share; limits take the first rows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharelora.data.glue import hold_out, take
from sharelora.support.errors import UserError


def rows(*labels: int) -> list[dict[str, Any]]:
    return [{"idx": index, "label": label} for index, label in enumerate(labels)]


@given(st.lists(st.integers(0, 3), min_size=10, max_size=200), st.floats(0.01, 0.9), st.booleans())
def test_every_row_is_in_one_part_and_labels_keep_their_share(labels: list[int], amount: float, stratify: bool) -> None:
    every = rows(*labels)
    count = max(1, round(amount * len(every)))
    kept, held = hold_out(every, amount, 3, stratify)
    assert len(held) == count and sorted([*kept, *held], key=lambda row: row["idx"]) == every
    assert kept == sorted(kept, key=lambda row: row["idx"]) and held == sorted(held, key=lambda row: row["idx"])
    if stratify:
        shares, found = Counter(labels), Counter(row["label"] for row in held)
        assert all(abs(found[label] - count * share / len(every)) < 1 for label, share in shares.items())


def test_the_seed_decides() -> None:
    every = rows(*[0, 1] * 50)
    first, again, other = (hold_out(every, 20, seed, True)[1] for seed in (1, 1, 2))
    assert first == again != other and Counter(row["label"] for row in first) == {0: 10, 1: 10}


def test_scores_are_not_stratified_and_none_held_out_is_all_kept() -> None:
    scored = [{"idx": index, "label": index / 7} for index in range(10)]
    assert len(hold_out(scored, 3, 0, stratify=False)[1]) == 3
    assert hold_out(scored, 0, 0, stratify=False) == (scored, [])


@pytest.mark.parametrize(
    ("amount", "message"),
    [
        (-1, "found held_out -1; need a fraction below 1"),
        (1.5, "found held_out 1.5; need a fraction"),
        (4, "found 4 training rows and held_out 4, which leaves nothing to train on"),
        (0.99, "leaves nothing to train on.*pass --held_out 0"),
    ],
)
def test_amounts_out_of_range_are_refused(amount: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        hold_out(rows(0, 1, 0, 1), amount, 0, True)


def test_limits_take_the_first_rows() -> None:
    assert take(rows(0, 1, 2), 2) == rows(0, 1) and take(rows(0, 1), None) == take(rows(0, 1), 9) == rows(0, 1)
    with pytest.raises(UserError, match="found a limit of 0 rows"):
        take(rows(0), 0)
