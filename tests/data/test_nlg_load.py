"""Finding a set by name in a folder, by path, or on the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nlg_rows import DART, E2E_CSV, E2E_TEXT, WEBNLG_LINE, WEBNLG_XML, write_json, write_lines, write_text

from sharelora.data.nlg import load_nlg, locate_nlg
from sharelora.support.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of data as the real ones are laid out."""
    write_text(tmp_path / "e2e" / "trainset.csv", E2E_CSV)
    write_text(tmp_path / "e2e" / "lora_format" / "valid.txt", E2E_TEXT)
    write_text(tmp_path / "e2e" / "lora_format" / "train.txt", E2E_TEXT * 2)
    write_lines(tmp_path / "webnlg2017" / "dev.jsonl", [WEBNLG_LINE])
    write_text(tmp_path / "webnlg2017" / "train" / "1triples" / "a.xml", WEBNLG_XML)
    write_json(tmp_path / "dart" / "dart-v1.1.1-full-test.json", [DART])
    return tmp_path


def test_names_are_found_in_a_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(load_nlg("e2e", "train", root)) == 3  # the official csv before LoRA's text
    assert len(load_nlg("webnlg", "valid", root)) == len(load_nlg("webnlg", "dev", root)) == 2
    assert locate_nlg("webnlg", "train", root) == root / "webnlg2017" / "train"
    assert len(load_nlg("dart", "test", root)) == 2
    monkeypatch.setenv("SHARELORA_DATA", str(root))
    assert locate_nlg("e2e", "valid") == root / "e2e" / "lora_format" / "valid.txt"


def test_paths_are_files_or_folders_of_files(root: Path) -> None:
    assert len(load_nlg(root / "e2e" / "trainset.csv")) == 3
    assert len(load_nlg(root / "e2e" / "lora_format", "valid")) == 3
    assert locate_nlg(root / "dart", "test") == root / "dart" / "dart-v1.1.1-full-test.json"
    assert len(load_nlg(root / "webnlg2017" / "train" / "1triples")) == 2


@pytest.mark.parametrize(
    ("name", "split", "words"),
    [
        ("e2", "train", "unknown data set e2; need one of e2e, webnlg, dart, or a file; did you mean e2e"),
        ("no/such.csv", "train", "no/such.csv not found; need a file of rows there"),
        ("e2e", "best", "found the split best; need one of train, valid, test"),
        ("e2e", "test", "no data set e2e for test in .*looked for e2e/testset_w_refs, e2e/test, .* as .csv"),
    ],
)
def test_what_is_not_there_is_said(root: Path, name: str, split: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_nlg(name, split, root)
    with pytest.raises(UserError, match="has no file for test"):
        load_nlg(root / "webnlg2017", "test")


class Rows(list[dict[str, Any]]):
    """A split as `datasets` gives it."""

    def to_list(self) -> list[dict[str, Any]]:
        return list(self)


def hub(**splits: Rows) -> Callable[..., dict[str, Rows]]:
    def load(**asked: Any) -> dict[str, Rows]:
        assert asked["path"] == "tuetschek/e2e_nlg"
        return splits

    return load


def test_the_hub_is_asked_where_there_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHARELORA_DATA", raising=False)
    row = {"meaning_representation": "name[Cotto]", "human_reference": "Cotto."}
    load = hub(train=Rows([row] * 2), validation=Rows([row]), test=Rows())
    assert len(load_nlg("e2e", "train", load=load)) == 2 and len(load_nlg("e2e", "valid", load=load)) == 1
    with pytest.raises(UserError, match="has no rows for test; set SHARELORA_DATA"):
        load_nlg("e2e", "test", load=load)
    with pytest.raises(UserError, match="the hub cannot be reached; set SHARELORA_DATA"):
        load_nlg("e2e", "train")
