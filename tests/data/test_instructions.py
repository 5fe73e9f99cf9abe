"""Data is found by name in a folder or on the hub, or as a file; what is missing is said with the ways out."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from small_data import alpaca_rows

from sharelora.data import DataArguments
from sharelora.data.find import find_splits
from sharelora.data.formats import FORMATS
from sharelora.data.instructions import find_source
from sharelora.data.registry import KNOWN, known
from sharelora.support.errors import UserError

Write = Callable[..., Path]


def test_every_name_of_the_upstream_projects_is_known() -> None:
    names = "alpaca alpaca-clean chip2 self-instruct hh-rlhf longform oasst1 math math_hard gsm8k codealpaca"
    assert set(KNOWN) == {*names.split(), "hf_codealpaca", "humaneval", "commonsense"}
    assert {entry.format for entry in KNOWN.values()} <= set(FORMATS)


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(UserError, match=r"unknown data set alpcaa.*did you mean alpaca\?"):
        known("alpcaa")
    with pytest.raises(UserError, match=r"did you mean gsm8k\?"):
        find_source(DataArguments(dataset="GSM8k"))
    with pytest.raises(UserError, match="or give the path of a local file"):
        known("zzzzzz")


def test_a_folder_is_searched_by_name(tmp_path: Path, write_rows: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows("alpaca/alpaca_data.jsonl", alpaca_rows(3))
    write_rows("gsm8k/train.jsonl", [{"question": "q", "answer": "#### 1"}])
    packed = tmp_path / "gsm8k" / "test.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps({"question": "t", "answer": "#### 2"}).encode()))
    monkeypatch.setenv("SHARELORA_DATA", str(tmp_path))
    found = find_source(DataArguments(dataset="alpaca"))
    assert (found.format, found.origin, len(found.splits["train"])) == ("alpaca", str(tmp_path), 3)
    found = find_source(DataArguments(dataset="gsm8k"))
    assert found.splits["test"][0]["question"] == "t" and set(found.splits) == {"train", "test"}


def test_the_training_sets_of_several_tasks_are_one_and_missing_ones_are_named(
    tmp_path: Path, write_rows: Write, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        UserError,
        match=r"commonsense_170k, commonsense/train, commonsense/boolq/train, .*--tiny",
    ):
        find_source(DataArguments(dataset="commonsense"), tmp_path)
    for task, count in (("boolq", 2), ("openbookqa", 3)):
        write_rows(f"commonsense/{task}/train.jsonl", alpaca_rows(count))
    write_rows("commonsense/piqa/test.jsonl", alpaca_rows(1))
    found = find_source(DataArguments(dataset="commonsense"), tmp_path)
    assert found.format == "alpaca" and {split: len(rows) for split, rows in found.splits.items()} == {"train": 5}
    assert "commonsense is trained on WITHOUT commonsense/piqa/train, commonsense/social_i_qa/train" in caplog.text
    assert "boolq" not in caplog.text
    # One file of everything comes first, and nothing is missing then.
    caplog.clear()
    write_rows("commonsense/commonsense_170k.jsonl", alpaca_rows(7))
    assert len(find_source(DataArguments(dataset="commonsense"), tmp_path).splits["train"]) == 7
    assert not caplog.text


def test_missing_data_says_where_it_looked_and_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        find_source(DataArguments(dataset="alpaca"), tmp_path)
    for part in (str(tmp_path), "alpaca/alpaca_data", "alpaca/train", "SHARELORA_DATA", "--dataset /path", "--tiny"):
        assert part in str(caught.value)


def test_without_folder_and_hub_it_ends_at_once_with_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHARELORA_DATA", raising=False)
    with pytest.raises(UserError, match=r"cannot be reached; set SHARELORA_DATA=.*, or add --tiny"):
        find_source(DataArguments(dataset="oasst1"))


def test_the_unselected_alpaca_rows_are_taken_unless_asked_otherwise(tmp_path: Path, write_rows: Write) -> None:
    rows = alpaca_rows(6)
    for row, subset in zip(rows, ["random_9k", "claude_t45"] * 3, strict=True):
        row["subset"] = subset
    write_rows("alpaca/alpaca_subset_15k.jsonl", rows)
    sizes = {
        subset: len(find_source(DataArguments(data_subset=subset), tmp_path).splits["train"])
        for subset in (None, "claude_t45", "all")
    }
    assert sizes == {None: 3, "claude_t45": 3, "all": 6}
    with pytest.raises(UserError, match="found subset in claude_t45, random_9k; need rows with subset other"):
        find_source(DataArguments(data_subset="other"), tmp_path)


def test_math_hard_has_level_5_only(tmp_path: Path, write_rows: Write) -> None:
    rows = [{"problem": str(n), "solution": "s", "level": f"Level {n}"} for n in range(1, 6)]
    write_rows("math/train.jsonl", rows)
    assert [row["problem"] for row in find_source(DataArguments(dataset="math_hard"), tmp_path).splits["train"]] == [
        "5"
    ]
    assert len(find_source(DataArguments(dataset="math"), tmp_path).splits["train"]) == 5


def test_a_file_and_a_folder_of_files(tmp_path: Path, write_rows: Write) -> None:
    path = write_rows("mine/train.jsonl", [{"input": "a", "output": "b"}])
    write_rows("mine/validation.jsonl", [{"input": "c", "output": "d"}])
    found = find_source(DataArguments(dataset=str(path)))
    assert found.format == "input-output" and set(found.splits) == {"train"}
    assert set(find_source(DataArguments(dataset=str(tmp_path / "mine"))).splits) == {"train", "eval"}
    forced = find_source(DataArguments(dataset=str(path), dataset_format="longform"))
    assert forced.format == "longform"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./gone.json", "not found; need a data file there"),
        ("rows.xml", "not found"),
        ("/nowhere/at/all", "not found"),
        ("pyproject.toml", "need a file ending in .jsonl"),
    ],
)
def test_a_bad_path_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_source(DataArguments(dataset=name))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no data; need a file such as train\.jsonl"):
        find_source(DataArguments(dataset=str(tmp_path)))


class Hub:
    """Stands for `datasets.load_dataset` and remembers what it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: dict[str, Any] = {}

    def __call__(self, **asked: Any) -> Any:
        self.asked = asked
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_the_splits_of_the_hub_keep_their_meaning() -> None:
    rows = {
        name: datasets.Dataset.from_list([{"input": name, "output": "x"}]) for name in ("train", "validation", "test")
    }
    hub = Hub(datasets.DatasetDict(rows))
    found = find_splits(KNOWN["longform"], load=hub)
    assert hub.asked == {"path": "akoksal/LongForm"}
    assert {split: source.rows()[0]["input"] for split, source in found.items()} == {
        "train": "train",
        "eval": "validation",
        "test": "test",
    }


def test_a_failure_of_the_hub_is_reported_with_its_true_reason() -> None:
    cause = PermissionError("403 for this account")
    error = datasets.exceptions.DatasetGenerationError("An error occurred")
    error.__cause__ = cause
    with pytest.raises(UserError, match=r"DatasetGenerationError: An error occurred \(PermissionError: 403 for this"):
        find_splits(KNOWN["alpaca"], load=Hub(error))


def test_an_error_of_our_own_is_not_taken_for_a_failure_of_the_hub() -> None:
    with pytest.raises(KeyError):
        find_splits(KNOWN["alpaca"], load=Hub(KeyError("bug")))


def test_an_empty_hub_data_set_is_refused() -> None:
    with pytest.raises(UserError, match="has no rows for train, eval, test; set SHARELORA_DATA"):
        find_splits(KNOWN["alpaca"], load=Hub({"other": []}))
