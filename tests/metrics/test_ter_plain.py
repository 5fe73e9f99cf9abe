"""TER against numbers worked out by hand, and the tokens that it is given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharelora.metrics.nlg import plain, score_webnlg
from sharelora.metrics.ter import edit_distances, edits, ter


@pytest.mark.parametrize(
    ("hypothesis", "reference", "rate"),
    [
        ("a b c d", "a b c d", 0),
        ("a b", "a b c d", 2 / 4),
        ("a x c d", "a b c d", 1 / 4),
        ("a b c d e", "a b c d", 1 / 4),
        ("c d a b", "a b c d", 1 / 4),  # two words are moved together: one edit
        ("", "a b c d", 1),
        ("w x y z v", "a b", 5 / 2),
    ],
)
def test_edits_per_word_of_the_reference(hypothesis: str, reference: str, rate: float) -> None:
    assert ter([hypothesis], [[reference]]) == pytest.approx(rate)


def test_the_example_of_the_paper() -> None:
    hypothesis = "THIS WEEK THE SAUDIS denied information published in the new york times"
    reference = "SAUDI ARABIA denied THIS WEEK information published in the AMERICAN new york times"
    # One phrase moved, two words changed, one left out, of 13.
    assert ter([hypothesis], [[reference]]) == pytest.approx(4 / 13)


@given(st.text("abc ", max_size=9), st.text("abc", min_size=1, max_size=5))
def test_it_is_never_more_than_the_edits_without_moves(hypothesis: str, reference: str) -> None:
    words, right = tuple(hypothesis.replace(" ", "")), tuple(reference)
    plain_edits = int(edit_distances([words], right)[0])
    assert abs(len(words) - len(right)) <= edits(words, right) <= plain_edits <= max(len(words), len(right))
    assert edits(right, right) == 0


def test_the_best_reference_counts_and_the_mean_over_segments() -> None:
    assert ter(["a b", "x"], [["a b c d", "a b c", ""], ["x"]]) == pytest.approx((1 / 3 + 0) / 2)


def test_it_is_not_all_edits_over_all_words() -> None:
    # Rates 1/1 and 0/9: their mean is a half, while one edit in ten words is a tenth.
    nine = "a b c d e f g h i"
    assert ter(["x", nine], [["y"], [nine]]) == pytest.approx(1 / 2)


def test_words_and_signs_are_set_apart() -> None:
    assert plain("The Alan B. Miller Hall's  floor-count: 3.5 (U.S.)") == (
        "the alan b . miller hall ' s floor - count : 3 . 5 ( u . s . )"
    )
    assert plain(plain("A.C. Cesena, £20")) == plain("A.C. Cesena, £20")
    assert plain("Café ") == "café"


def test_case_and_spaces_do_not_count_for_webnlg() -> None:
    found = score_webnlg(["the mill's floor-count."], [["The Mill ' s floor - count ."]], without=["METEOR"])
    assert found == {"BLEU": pytest.approx(1.0), "TER": 0.0}
