"""Tokens of the caption code: what Stanford's program gives for these texts, and on the real references."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharelora.data.nlg import load_nlg
from sharelora.metrics import java
from sharelora.metrics.captions import tokenise, tokenise_with_java

# Written down from Stanford's program.
CASES = {
    "The Vaults pub near Café Adriatic has a 5 star rating. Prices start at £30.": (
        "the vaults pub near café adriatic has a 5 star rating prices start at # 30"
    ),
    "It's £20-25, £10.50 or 3/5; who's don't cannot.": "it 's # 20-25 # 10.50 or 3/5 who 's do n't can not",
    'A 5-star, family-friendly "pub" (cheap) - yes!': "a 5-star family-friendly pub -lrb- cheap -rrb- yes",
    "hors d'oeuvres & more at St. John's centre.It": "hors d'oeuvres & more at st. john 's centre.it",
    "Near the river .": "near the river",
    "": "",
    "the riverside.......Or not": "the riverside or not",
}


@pytest.mark.parametrize("text", CASES)
def test_our_rules(text: str) -> None:
    assert tokenise([text]) == [CASES[text]]


@pytest.mark.slow
@pytest.mark.skipif(not java.available(), reason=f"Stanford's tokeniser needs {java.missing()}")
def test_the_program_agrees() -> None:
    assert tokenise_with_java(list(CASES)) == list(CASES.values())
    assert tokenise_with_java(["one\u2028two", "", "three\n\nfour", ""]) == ["one two", "", "three four", ""]


@pytest.mark.realdata
@pytest.mark.skipif(not java.available(), reason=f"Stanford's tokeniser needs {java.missing()}")
def test_they_agree_on_the_references_of_e2e(shared_data: Path) -> None:
    for data in (shared_data / "e2e" / "testset_w_refs.csv.gz", shared_data / "e2e" / "lora_format" / "test.txt.gz"):
        texts = [record.completion for record in load_nlg(data)]
        assert len(texts) == 4693
        assert tokenise(texts) == tokenise_with_java(texts)
