"""A sample of texts from a text file, a table or a data set: drawn by its seed alone."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pytest

from sharelora.data import find
from sharelora.layer_groups.texts import read_sample
from sharelora.support.errors import UserError


def lines(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("one\nof two\n\n \t\nthree\r\n\r\nfour\n", ("one\nof two", "three", "four")),
        ("one\ntwo\n", ("one", "two")),
        ("only one", ("only one",)),
    ],
)
def test_a_text_file_has_paragraphs_or_else_lines(tmp_path: Path, content: str, texts: tuple[str, ...]) -> None:
    (tmp_path / "a.txt").write_bytes(content.encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(content.encode()))
    for name in ("a.txt", "b.txt.gz"):
        assert read_sample(str(tmp_path / name), 3).texts == texts


def test_a_table_has_a_column_of_text_or_prompts_with_answers(tmp_path: Path) -> None:
    texts = lines(tmp_path / "t.jsonl", [{"text": "a b", "id": "1"}, {"text": " "}, {"text": "c d"}])
    assert read_sample(texts, 2).texts == ("a b", "c d")
    prompts = lines(tmp_path / "p.jsonl", [{"question": "1+1?", "answer": "It is 2 #### 2"}])
    assert read_sample(prompts, 1).texts == ("Question: 1+1?\n\nAnswer: It is 2 The final answer is 2",)


def test_a_data_set_is_found_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "alpaca").mkdir()
    lines(tmp_path / "alpaca" / "train.jsonl", [{"instruction": "say a", "input": "", "output": "a"}])
    found = read_sample("alpaca", 1, data_root=tmp_path)
    assert found.origin == "alpaca" and found.texts[0].endswith("### Response: a")


def test_the_seed_alone_decides(tmp_path: Path) -> None:
    file = lines(tmp_path / "t.jsonl", [{"text": f"text {n}"} for n in range(50)])
    first, again, other = (read_sample(file, 8, seed) for seed in (0, 0, 1))
    assert len(first.texts) == 8 and first == again and first.digest == again.digest
    assert first.texts != other.texts and first.digest != other.digest


def test_too_few_texts_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = lines(tmp_path / "t.jsonl", [{"text": "a"}, {"text": "b"}])
    with caplog.at_level(logging.WARNING):
        assert len(read_sample(file, 5).texts) == 2
    assert "has only 2 of the 5 texts" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", "\n \n", "found no text in"),
        ("t.jsonl", '{"body": "a"}\n', "has the columns body; need text, content, sentence or those of a prompt"),
        ("missing.txt", None, "not found"),
    ],
)
def test_what_has_no_text_is_refused(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_sample(str(tmp_path / name), 2)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean alpaca"):
        read_sample("alpacca", 2)


def test_plain_texts_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "c4").mkdir()
    with gzip.open(tmp_path / "c4" / "c4-validation.00000-of-00008.json.gz", "wt") as file:
        file.write('{"text": "one\\ntwo", "url": "u"}\n{"text": "three", "url": "v"}\n')
    (tmp_path / "wikitext").mkdir()
    (tmp_path / "wikitext" / "wiki.valid.raw").write_text(
        " \n = A title = \n \n A text .\n \n = = B = = \n \n Another .\n"
    )
    assert read_sample("c4", 2, data_root=tmp_path).texts == ("one\ntwo", "three")
    found = read_sample("wikitext", 2, data_root=tmp_path)
    assert found.texts == ("A text .", "Another .") and found.origin == "wikitext"


def test_plain_texts_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^no data set c4 for eval in .*: looked for c4/validation, .*give a text file"
    ):
        read_sample("c4", 2, data_root=tmp_path)
    with pytest.raises(UserError, match="did you mean wikitext"):
        read_sample("wikitxt", 2)


def test_plain_texts_of_the_hub_are_one_file_of_the_validation_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def load(arguments: dict[str, Any], *_: Any) -> dict[str, Any]:
        asked.append(arguments)
        return {"validation": datasets.Dataset.from_dict({"text": ["", " = A = \n", " a text \n"]})}

    monkeypatch.delenv("SHARELORA_DATA", raising=False)
    monkeypatch.setattr(find, "load_from_hub", load)
    assert read_sample("wikitext", 1).texts == ("a text",) and read_sample("c4", 1).texts == ("a text",)
    assert [(ask["path"], ask.get("data_files")) for ask in asked] == [
        ("Salesforce/wikitext", None),
        ("allenai/c4", {"validation": "en/c4-validation.00000-of-00008.json.gz"}),
    ]
