"""The items of a test are found by its name in a folder or on the hub."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from sharelora.data import items
from sharelora.data.items import load_items
from sharelora.data.readers import Row, cell
from sharelora.support.errors import UserError


def question(row: Row) -> str:
    return cell(row, "question")


def test_a_folder_is_searched_by_name_also_for_packed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "humaneval").mkdir()
    packed = tmp_path / "humaneval" / "HumanEval.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps({"question": "a"}).encode()))
    assert load_items("humaneval", "test", question, tmp_path) == ["a"]
    monkeypatch.setenv("SHARELORA_DATA", str(tmp_path))
    assert load_items("humaneval", "test", question) == ["a"]
    with pytest.raises(UserError, match=r"no humaneval train split in .*; need one of humaneval/train.jsonl there"):
        load_items("humaneval", "train", question)


def test_the_hub_is_asked_where_there_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHARELORA_DATA", raising=False)
    asked: list[Any] = []

    def stand_in(hub: Any, name: str, ways: str) -> Any:
        asked.append((dict(hub), name, ways))
        return datasets.DatasetDict({"test": datasets.Dataset.from_list([{"question": "a"}, {"question": "b"}])})

    monkeypatch.setattr(items, "load_from_hub", stand_in)
    assert load_items("gsm8k", "test", question) == ["a", "b"]
    [(hub, name, ways)] = asked
    assert (hub, name) == ({"path": "openai/gsm8k", "name": "main"}, "gsm8k") and "--data_root" in ways
    with pytest.raises(UserError, match=r"data set gsm8k \(openai/gsm8k\) has no train split"):
        load_items("gsm8k", "train", question)
    with pytest.raises(UserError, match="openai/gsm8k test, row 1: nothing in column answer"):
        load_items("gsm8k", "test", lambda row: cell(row, "answer"))
