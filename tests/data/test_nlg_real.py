"""The real E2E and WebNLG files beside the project: counts, and LoRA's text form row by row."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharelora.data.nlg import Record, grouped, load_nlg
from sharelora.data.nlg.load import read_file

pytestmark = pytest.mark.realdata

ROWS = {
    ("e2e", "train"): (42061, 4862),
    ("e2e", "valid"): (4672, 547),
    ("e2e", "test"): (4693, 630),
}
# References whose comment is good; the test set has no other.
WEBNLG = {"train": (18102 - 77, 6940 - 5), "valid": (2268 - 10, 872 - 1), "test": (4928, 1862)}


@pytest.mark.parametrize(("name", "split"), ROWS)
def test_every_row_of_e2e_is_read(name: str, split: str, shared_data: Path) -> None:
    records = load_nlg(name, split, shared_data)
    assert (len(records), len(grouped(records))) == ROWS[name, split]


def test_the_inputs_of_the_test_set_are_those_of_the_official_list(shared_data: Path) -> None:
    inputs = read_file(shared_data / "e2e" / "testset.csv", need_text=False)
    assert len(inputs) == 630
    assert [group.context for group in grouped(load_nlg("e2e", "test", shared_data))] == [r.context for r in inputs]


def in_loras_form(shared_data: Path, split: str) -> list[tuple[Record, Record]]:
    ours = load_nlg("e2e", split, shared_data)
    theirs = read_file(shared_data / "e2e" / "lora_format" / f"{split}.txt.gz")
    return list(zip(ours, theirs, strict=True))


def test_the_official_test_set_is_loras_row_by_row(shared_data: Path) -> None:
    assert [pair for pair in in_loras_form(shared_data, "test") if pair[0] != pair[1]] == []


def test_the_official_validation_set_differs_from_loras_in_few_texts_alone(shared_data: Path) -> None:
    """LoRA's file was made by another tokeniser, which writes `isn 't` and `5 - star`."""
    pairs = in_loras_form(shared_data, "valid")
    assert all(ours.context == theirs.context for ours, theirs in pairs)
    other = [(ours, theirs) for ours, theirs in pairs if ours != theirs]
    assert len(other) < 0.02 * len(pairs)
    assert all(a.completion.replace(" ", "") == b.completion.replace(" ", "") for a, b in other)


@pytest.mark.parametrize("split", WEBNLG)
def test_every_checked_text_of_webnlg_is_read(split: str, shared_data: Path) -> None:
    records = load_nlg("webnlg", split, shared_data)
    texts, entries = WEBNLG[split]
    assert len(records) == texts
    assert len(grouped(records)) <= entries
    seen = {record.seen for record in records}
    assert seen == ({True, False} if split == "test" else {True})
