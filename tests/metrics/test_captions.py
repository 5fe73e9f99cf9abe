"""ROUGE-L and CIDEr against numbers worked out by hand, and against the code that the E2E challenge uses."""

from __future__ import annotations

import importlib.util
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharelora.metrics.captions import BETA, cider, common_length, rouge_l

WORDS = "the a mill is near river coffee shop five star city centre family friendly".split()


def test_common_subsequence() -> None:
    assert common_length("a b c d".split(), "a c d e f".split()) == 3
    assert common_length("a b a".split(), "b a b".split()) == 2
    assert common_length([], ["a"]) == common_length(["a"], []) == 0


@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_common_subsequence_has_its_properties(left: str, right: str) -> None:
    length = common_length(left, right)
    assert length == common_length(right, left) == common_length(left[::-1], right[::-1])
    assert common_length(left + "a", right + "a") == length + 1


def test_rouge_l_weighs_recall_more() -> None:
    # Three of four words, three of five of the reference.
    precision, recall = 3 / 4, 3 / 5
    expected = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
    assert rouge_l(["a b c d"], [["a c d e f", "b a"]]) == pytest.approx(expected) == pytest.approx(0.6535714)


def test_rouge_l_takes_precision_and_recall_from_different_references() -> None:
    assert rouge_l(["a b c d"], [["a b c d e f g h", "d"]]) == pytest.approx(1.0)


def test_rouge_l_is_a_mean_over_segments() -> None:
    assert rouge_l(["a b", "x", ""], [["a b"], ["y"], ["z"]]) == pytest.approx(1 / 3)


def test_cider_of_the_references_themselves() -> None:
    # Two words have one n-gram of one and of two words, and none of three and four: 10 * 2 / 4.
    assert cider(["a b", "c d"], [["a b"], ["c d"]]) == pytest.approx(5.0)


def test_cider_cuts_counts_and_punishes_another_length() -> None:
    # "c": cosine 1 / sqrt(2) of words, no pair, one pair fewer.
    one = 10 / 4 * (1 / math.sqrt(2)) * math.exp(-1 / 72)
    assert cider(["a b", "c"], [["a b"], ["c d"]]) == pytest.approx((5.0 + one) / 2)
    # "c c c": its three count as one, in a vector of length three; it has one pair more than the reference.
    many = 10 / 4 * (1 / (3 * math.sqrt(2))) * math.exp(-1 / 72)
    assert cider(["a b", "c c c"], [["a b"], ["c d"]]) == pytest.approx((5.0 + many) / 2)


def test_cider_of_what_every_segment_has_is_nothing() -> None:
    assert cider(["a b"], [["a b"]]) == 0.0
    assert cider(["x", "x"], [["x"], ["x"]]) == 0.0


def test_cider_is_a_mean_over_references() -> None:
    both = cider(["a b", "c d"], [["a b", "x y"], ["c d"]])
    assert both == pytest.approx((2.5 + 5.0) / 2)


@pytest.mark.skipif(importlib.util.find_spec("pycocoevalcap") is None, reason="pycocoevalcap is not installed")
def test_they_are_the_numbers_of_the_caption_code() -> None:
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    draw = random.Random(0)
    hypotheses = [_sentence(draw) for _ in range(60)]
    references = [[_sentence(draw) for _ in range(draw.randint(1, 8))] for _ in range(60)]
    truth, found = dict(enumerate(references)), {place: [text] for place, text in enumerate(hypotheses)}
    assert rouge_l(hypotheses, references) == pytest.approx(Rouge().compute_score(truth, found)[0], abs=1e-9)
    assert cider(hypotheses, references) == pytest.approx(Cider().compute_score(truth, found)[0], abs=1e-9)


def _sentence(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(1, 14)))
