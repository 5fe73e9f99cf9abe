"""Folders of data in every layout that people have, as splits with our names."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from sharelora.data import DataArguments, load_splits
from sharelora.data.folders import folder_splits, read_table, rows_of
from sharelora.data.instructions import find_source
from sharelora.data.nlg import Record
from sharelora.data.nlg.load import load_nlg
from sharelora.support.errors import UserError

Write = Callable[..., Path]


def pairs(word: str, count: int = 1) -> list[dict[str, Any]]:
    return [{"input": f"{word} {number}", "output": "x"} for number in range(count)]


def inputs(folder: Path) -> dict[str, list[str]]:
    """What each split of a folder says, through the command's own way."""
    found = find_source(DataArguments(dataset=str(folder)))
    assert found.format == "input-output"
    return {split: [row["input"] for row in rows] for split, rows in found.splits.items()}


EVERY = {"train": ["train 0", "train 1"], "eval": ["validation 0"], "test": ["test 0"]}


def test_the_hubs_own_layout_of_parquet_with_shards(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("# Pairs\n")
    for name, rows in (
        ("train-00000-of-00002", pairs("train")),
        ("train-00001-of-00002", [{"input": "train 1", "output": "x"}]),
        ("validation-00000-of-00001", pairs("validation")),
        ("test-00000-of-00001", pairs("test")),
    ):
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / "data" / f"{name}.parquet")
    assert inputs(tmp_path) == EVERY


def test_packed_lines_in_a_folder_called_data(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for word, count in (("train", 2), ("validation", 1), ("test", 1)):
        lines = "".join(json.dumps(row) + "\n" for row in pairs(word, count))
        (tmp_path / "data" / f"{word}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert inputs(tmp_path) == EVERY


CONFIGS = """---
configs:
- config_name: first{default}
  data_files:
  - split: {train}
    path: a.jsonl
  - split: {test}
    path: b.jsonl
- config_name: second
  data_files: b.jsonl
---
"""


def test_the_configuration_in_the_readme_is_followed(
    tmp_path: Path, write_rows: Write, caplog: pytest.LogCaptureFixture
) -> None:
    write_rows("a.jsonl", pairs("a"))
    write_rows("b.jsonl", pairs("b"))
    readme, default = tmp_path / "README.md", "\n  default: true"
    readme.write_text(CONFIGS.format(default=default, train="train", test="test"))
    assert inputs(tmp_path) == {"train": ["a 0"], "test": ["b 0"]}
    readme.write_text(CONFIGS.format(default=default, train="train", test="other"))
    assert inputs(tmp_path) == {"train": ["a 0"]}
    assert "the splits other of" in caplog.text and "are not used" in caplog.text
    readme.write_text(CONFIGS.format(default=default, train="train_sft", test="test_sft"))
    with pytest.raises(UserError, match=r"has the splits train_sft, test_sft; need train, and if"):
        inputs(tmp_path)
    readme.write_text(CONFIGS.format(default="", train="train", test="test"))
    with pytest.raises(
        UserError, match=r"one among the available configs: \['first', 'second'\].*need files"
    ) as caught:
        inputs(tmp_path)
    assert "\n" not in str(caught.value)


def test_files_of_our_own_names_and_one_file_of_any_name(tmp_path: Path, write_rows: Write) -> None:
    write_rows("ours/train.jsonl", pairs("train", 2))
    write_rows("ours/dev.jsonl", pairs("validation"))
    write_rows("ours/test.jsonl", pairs("test"))
    assert inputs(tmp_path / "ours") == EVERY
    write_rows("single/rows.jsonl", pairs("train", 2))
    assert inputs(tmp_path / "single") == {"train": ["train 0", "train 1"]}


def test_what_datasets_saved(tmp_path: Path) -> None:
    train = datasets.Dataset.from_list(pairs("train", 2))
    rest = {word: datasets.Dataset.from_list(pairs(word)) for word in ("validation", "test")}
    train.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": train, **rest}).save_to_disk(tmp_path / "every")
    assert inputs(tmp_path / "one") == {"train": EVERY["train"]}
    assert inputs(tmp_path / "every") == EVERY
    found = load_splits(DataArguments(dataset=str(tmp_path / "every")))
    assert [row["output"] for row in found.train] == ["x", "x"] and len(found.eval) == len(found.test) == 1
    next((tmp_path / "one").glob("*.arrow")).unlink()
    with pytest.raises(UserError, match=r"was saved by `datasets` but cannot be read: .*; need all of its files"):
        folder_splits(tmp_path / "one")


def test_a_bad_row_of_a_folder_is_named_by_its_file_or_its_split(tmp_path: Path, write_rows: Write) -> None:
    file = write_rows("data/train.jsonl", [*pairs("a"), {"input": "b", "output": float("nan")}])
    with pytest.raises(UserError, match=f"{file}, row 2 has nothing in column output"):
        load_splits(DataArguments(dataset=str(tmp_path)))
    saved = datasets.Dataset.from_list([*pairs("a"), {"input": "b", "output": None}])
    saved.save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=f"{tmp_path / 'saved'} train, row 2 has nothing in column output"):
        load_splits(DataArguments(dataset=str(tmp_path / "saved")))


def test_one_split_of_a_file_or_a_folder(tmp_path: Path, write_rows: Write) -> None:
    file = write_rows("both/train.jsonl", pairs("train"))
    write_rows("both/test.jsonl", pairs("test"))
    assert read_table(file, "test") == read_table(tmp_path / "both", "train") == pairs("train")
    assert rows_of(folder_splits(tmp_path / "both")["test"]) == pairs("test")
    with pytest.raises(UserError, match="both has the splits train, test; need eval"):
        read_table(tmp_path / "both", "eval")


def test_data_to_text_reads_the_same_folders(tmp_path: Path) -> None:
    rows = {word: [{"mr": f"name[{word}]", "ref": f"{word}."}] for word in ("train", "validation", "test")}
    saved = {word: datasets.Dataset.from_list(part) for word, part in rows.items()}
    datasets.DatasetDict(saved).save_to_disk(tmp_path / "saved")
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for word, part in saved.items():
        part.to_csv(tmp_path / "hub" / "data" / f"{word}.csv")
    for folder in (tmp_path / "saved", tmp_path / "hub"):
        for split, word in (("train", "train"), ("valid", "validation"), ("test", "test")):
            assert load_nlg(folder, split) == [Record(f"name : {word}", f"{word} .")]
    (tmp_path / "hub" / "data" / "validation.csv").unlink()
    with pytest.raises(UserError, match=r"has no file for valid; need one such as valid\.jsonl"):
        load_nlg(tmp_path / "hub", "valid")
