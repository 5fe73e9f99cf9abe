"""Spaces between words and punctuation, as LoRA's E2E files have them."""

from __future__ import annotations

import pytest

from sharelora.data.nlg.linearise import spaced


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A pub, by the river.", "A pub , by the river ."),
        ("It's a family-friendly café.", "It 's a family - friendly café ."),
        ("isn't, Don't don't. They'll", "is n't , Do n't do n't . They 'll"),
        ("priced £20-25.", "priced £ 20 - 25 ."),
        ("£20-£25", "£ 20-£25"),
        ("20 £. less that 20GBP.", "20 £ . less that 20GBP ."),
        ("near 'The Bakers'. The Mill' is", "near ' The Bakers ' . The Mill ' is"),
        ('called "The Punter"', 'called " The Punter "'),
        ("in the center., next", "in the center . , next"),
        ("a low rating..", "a low rating .."),
        ("ratings...but it is", "ratings ... but it is"),
        ("burgers,drinks ,it  is", "burgers , drinks , it is"),
        ("a 1-star place", "a 1-star place"),
        ("hors d'oeuvre thats", "hors d'oeuvre that s"),
        ("U.K. in price .", "U.K. in price ."),
        ("", ""),
    ],
)
def test_examples(text: str, expected: str) -> None:
    assert spaced(text) == expected
    assert spaced(text).replace(" ", "") == text.replace(" ", "")


def test_it_changes_nothing_that_is_spaced_already() -> None:
    text = "It 's a family - friendly café , is n't it ? £ 20 - 25 ."
    assert spaced(text) == text
