"""BLEU and NIST against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from sharelora.metrics.mteval import BETA, bleu, information, length_penalty, nist

CAT = "the cat sat on the mat"


def test_bleu_is_the_geometric_mean_of_the_precisions() -> None:
    # "the" counts once, as in the reference: 5 of 6 words, 3 of 5 pairs, 2 of 4, 1 of 3.
    assert bleu([CAT], [["the cat sat on a mat"]]) == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)


def test_bleu_takes_the_closest_reference_length_and_of_two_the_shorter() -> None:
    short = "the cat sat on"
    assert bleu([short], [["the cat sat on the mat", "the cat sat on it"]]) == pytest.approx(math.exp(1 - 5 / 4))
    assert bleu(["a b c d e"], [["a b c d", "a b c d e f"]]) == pytest.approx(1.0)


def test_bleu_ignores_case_and_how_signs_are_set() -> None:
    assert bleu(["The Mill, near Café Sicilia."], [["the mill , near café sicilia ."]]) == pytest.approx(1.0)


def test_bleu_counts_over_the_corpus_and_allows_fewer_references() -> None:
    # 4 + 3 of 4 + 4 words and so on. A mean of two scores would differ: the second has no four words in a row.
    hypotheses, references = ["a b c d", "e f g x"], [["a b c d", "q r s t"], ["e f g h"]]
    assert bleu(hypotheses, references) == pytest.approx((7 / 8 * 5 / 6 * 3 / 4 * 1 / 2) ** 0.25)


def test_bleu_of_nothing_is_nothing() -> None:
    assert bleu(["", ""], [["a b"], ["c d"]]) == 0.0


def test_information_is_what_the_last_word_of_an_ngram_adds() -> None:
    found = information(["a a b c".split()])
    assert {" ".join(key): value for key, value in found.items() if len(key) < 3} == {
        "a": 1.0,
        "b": 2.0,
        "c": 2.0,
        "a a": 1.0,
        "a b": 1.0,
        "b c": 0.0,
    }


def test_nist_is_information_per_ngram_summed_over_the_orders() -> None:
    assert nist(["a b"], [["a b"]]) == pytest.approx(1.0)
    # Words: (1 + 2 + 2) / 3. Pairs: (1 + 0) / 2. Three: 0 / 1. Three words where four are expected.
    penalty = math.exp(-BETA * math.log(3 / 4) ** 2)
    assert nist(["a b c"], [["a a b c"]]) == pytest.approx((5 / 3 + 1 / 2) * penalty)


def test_nist_counts_an_ngram_as_often_as_the_reference_that_has_it_most() -> None:
    # Of six words in the references four are a, of the pairs two are a a, of the triples one is a a a. Three of four a
    # count, two of three pairs, one of two triples; three words are expected.
    expected = 3 / 4 * math.log2(6 / 4) + 2 / 3 * math.log2(4 / 2) + 1 / 2 * math.log2(2 / 1)
    assert nist(["a a a a"], [["a a a b", "a x"]]) == pytest.approx(expected)


def test_the_length_penalty_halves_at_two_thirds() -> None:
    assert length_penalty(2, 3) == pytest.approx(0.5)
    assert length_penalty(3, 3) == length_penalty(9, 3) == 1.0
    assert length_penalty(0, 3) == 0.0


def test_the_two_official_forms_of_nist_expect_different_lengths() -> None:
    # References of 2, 2, 2 and of 8 words. Perl: 14 words of 4 references, two segments: 7. Python: 2 + 8 = 10.
    references = [["a b", "a b", "a b"], ["c d e f g h i j"]]
    hypotheses = ["a b", "c d e f g"]
    perl, python = nist(hypotheses, references), nist(hypotheses, references, python=True)
    assert python / perl == pytest.approx(length_penalty(7, 10))


def test_nist_leaves_out_references_without_words() -> None:
    assert nist(["a b"], [["a b", "", " "]]) == nist(["a b"], [["a b"]])
