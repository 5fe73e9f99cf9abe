"""The items of a test are found by its name in a folder or on the hub."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from sharelora.data import find
from sharelora.data.find import parse_split
from sharelora.data.registry import KNOWN
from sharelora.data.rows import Row, cell
from sharelora.support.errors import UserError


def question(row: Row) -> str:
    return cell(row, "question")


def test_a_folder_is_searched_by_name_also_for_packed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "humaneval").mkdir()
    packed = tmp_path / "humaneval" / "HumanEval.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps({"question": "a"}).encode()))
    assert parse_split(KNOWN["humaneval"], "test", question, tmp_path) == ["a"]
    monkeypatch.setenv("SHARELORA_DATA", str(tmp_path))
    assert parse_split(KNOWN["humaneval"], "test", question) == ["a"]
    with pytest.raises(UserError, match=r"no data set humaneval for train in .*: looked for humaneval/train as .jsonl"):
        parse_split(KNOWN["humaneval"], "train", question)


def test_the_hub_is_asked_where_there_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHARELORA_DATA", raising=False)
    asked: list[Any] = []

    def stand_in(hub: Any, dataset: find.KnownDataset, load: Any) -> Any:
        asked.append((dict(hub), dataset.name, dataset.ways))
        return datasets.DatasetDict({"test": datasets.Dataset.from_list([{"question": "a"}, {"question": "b"}])})

    monkeypatch.setattr(find, "load_from_hub", stand_in)
    assert parse_split(KNOWN["gsm8k"], "test", question) == ["a", "b"]
    [(hub, name, ways)] = asked
    assert (hub, name) == ({"path": "openai/gsm8k", "name": "main"}, "gsm8k") and "--data_root" in ways
    with pytest.raises(UserError, match=r"data set gsm8k \(openai/gsm8k\) has no rows for train"):
        parse_split(KNOWN["gsm8k"], "train", question)
    with pytest.raises(UserError, match="openai/gsm8k test, row 1: nothing in column answer"):
        parse_split(KNOWN["gsm8k"], "test", lambda row: cell(row, "answer"))
