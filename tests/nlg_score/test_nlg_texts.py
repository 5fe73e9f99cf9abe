"""References and predictions in the forms of upstream's scripts, and what is said when they have another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from words import Words

from sharelora.data.nlg import Record, grouped
from sharelora.evaluation.nlg_texts import TestSet, read_blocks, read_decoded, read_lines, read_numbered
from sharelora.support.errors import UserError

ROWS = [Record("a : 1", "one"), Record("a : 1", "uno"), Record("b : 2", "two")]


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_blocks_are_apart_by_an_empty_line(tmp_path: Path) -> None:
    for end in ("", "\n", "\n\n\n"):
        file = written(tmp_path / "refs.txt", f"one \nuno\n\ntwo{end}")
        assert read_blocks(file) == [["one", "uno"], ["two"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("one\n\n\ntwo\n", "no reference before the empty line 3"),
        ("\none\n", "no reference before the empty line 1"),
        ("\n\n", "has no references"),
        ("", "has no references"),
    ],
)
def test_blocks_of_another_form(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_blocks(written(tmp_path / "refs.txt", text))


def test_an_empty_line_is_an_empty_prediction(tmp_path: Path) -> None:
    assert read_lines(written(tmp_path / "p.txt", "one\n\n two \u2028x\n")) == ["one", "", "two \u2028x"]
    assert read_lines(written(tmp_path / "p.txt", "one\n\n")) == ["one", ""]


def test_numbered_files_by_folder_or_by_the_start_of_their_names(tmp_path: Path) -> None:
    for number in range(11):
        written(tmp_path / f"reference{number}", f"one{number}\ntwo{number}\n")
    for path in (tmp_path, tmp_path / "reference"):
        found = read_numbered(path)
        assert [texts[0] for texts in found] == ["one0", "two0"] and found[1][10] == "two10"


def test_numbered_files_with_a_gap_or_of_different_lengths(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found none as references"):
        read_numbered(tmp_path / "nothing" / "reference")
    written(tmp_path / "reference0", "one\n")
    written(tmp_path / "reference2", "one\n")
    with pytest.raises(UserError, match=r"found reference0, reference2 as references; need .*without a gap"):
        read_numbered(tmp_path)
    written(tmp_path / "reference1", "one\ntwo\n")
    with pytest.raises(UserError, match="reference1 has 2 lines but reference0 has 1"):
        read_numbered(tmp_path)


def predictions(path: Path, rows: dict[int, list[int]]) -> Path:
    return written(path, "".join(json.dumps({"id": row, "predict": ids}) + "\n" for row, ids in rows.items()))


def test_ids_become_texts_by_input(tmp_path: Path) -> None:
    words = Words("end mill river two paragraph")
    # Upstream fills up with zeros behind the end token.
    file = predictions(tmp_path / "p.jsonl", {2: [3, 0, 1, 1], 0: [1, 0, 0], 1: [2, 4, 1]})
    assert read_decoded(file, grouped(ROWS), words) == ["river", "two"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({0: [1]}, "lacks 1 of 2 inputs, the first is row 2"),
        ({0: [1], 3: [1]}, "id 3"),
        ({0: [1], 2: [77]}, "token id 77"),
    ],
)
def test_ids_of_another_data_set_or_model(tmp_path: Path, rows: dict[int, list[int]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_decoded(predictions(tmp_path / "p.jsonl", rows), grouped(ROWS), Words("end mill river"))


def test_parts_of_a_test_set() -> None:
    whole = TestSet(["x", "y", "z"], [["1"], ["2"], ["3"]], [True, False, True])
    assert whole.part(True) == TestSet(["x", "z"], [["1"], ["3"]])
    assert whole.part(False) == TestSet(["y"], [["2"]])
