"""The nine tasks from official files and from the hub: the same rows, and one-line errors for what does not fit."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from glue_files import FIRST, OFFICIAL, write_official

from sharelora.data.glue import TASKS, glue_task, load_glue
from sharelora.metrics.glue import METRICS
from sharelora.support.errors import UserError


@pytest.fixture
def official(tmp_path: Path) -> Path:
    return write_official(tmp_path)


def test_the_tasks_are_the_nine_of_the_paper_in_the_form_of_the_upstream_script() -> None:
    columns = {name: task.columns for name, task in TASKS.items()}
    pair = ("sentence1", "sentence2")
    assert columns == {
        "cola": ("sentence",),
        "mnli": ("premise", "hypothesis"),
        "mrpc": pair,
        "qnli": ("question", "sentence"),
        "qqp": ("question1", "question2"),
        "rte": pair,
        "sst2": ("sentence",),
        "stsb": pair,
        "wnli": pair,
    }
    assert [name for name, task in TASKS.items() if task.regression] == ["stsb"]
    assert {name: task.num_labels for name, task in TASKS.items() if task.num_labels != 2} == {"mnli": 3, "stsb": 1}
    for task in TASKS.values():
        assert set(task.metrics) <= set(METRICS) and set(task.submission) == set(task.test_splits)
        assert len(task.written_labels) == len(task.labels)


def test_names_are_taken_in_any_case_and_an_unknown_one_gets_the_nearest() -> None:
    assert glue_task("CoLA") is TASKS["cola"]
    with pytest.raises(UserError, match=r"found unknown task sst-2; need one of cola, .*; did you mean sst2\?"):
        load_glue("sst-2")
    with pytest.raises(UserError, match="or pass --train_file"):
        load_glue("imdb")


@pytest.mark.parametrize("name", TASKS)
def test_the_official_files_of_every_task(name: str, official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARELORA_DATA", str(official))
    found = load_glue(name)
    task = found.task
    assert found.origin == str(official / "glue" / task.folder)
    assert set(found.splits) == set(OFFICIAL[task.folder])
    texts, label = FIRST[name]
    assert found.rows("train")[0] == {**dict(zip(task.columns, texts, strict=True)), "idx": 0, "label": label}
    assert type(found.rows("train")[0]["label"]) is (float if task.regression else int)
    for split in task.test_splits:
        assert set(found.rows(split)[0]) == {*task.columns, "idx"}


def test_test_rows_keep_the_numbers_that_a_submission_needs(official: Path) -> None:
    assert [row["idx"] for row in load_glue("cola", data_root=official).rows("test")] == [0, 1]
    assert load_glue("mnli", data_root=official).rows("test_mismatched")[0]["idx"] == 9847
    assert load_glue("qqp", data_root=official).rows("test")[0]["idx"] == 5


def test_lines_of_qqp_that_are_cut_in_two_are_left_out_loudly(official: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rows = load_glue("qqp", data_root=official).rows("train")
    assert [row["question1"] for row in rows] == ["Why?", "Who?"]
    assert "left out 2 lines that are cut in two (3, 4)" in caplog.text


def test_gzipped_files_a_byte_order_mark_and_windows_line_ends(official: Path) -> None:
    folder = official / "glue" / "RTE"
    text = "\ufeff" + OFFICIAL["RTE"]["train"].replace("\n", "\r\n")
    (folder / "train.tsv").unlink()
    (folder / "train.tsv.gz").write_bytes(gzip.compress(text.encode()))
    assert load_glue("rte", data_root=official).rows("train")[0]["label"] == 1


BAD: list[tuple[str, str, str, str]] = [
    (
        "RTE",
        "train",
        "index\ttext\tlabel\n0\ta\tentailment\n",
        r"train.tsv has the columns index, text, label; need sent",
    ),
    ("RTE", "train", "index\tsentence1\tsentence2\tlabel\n0\ta\n", r"line 2: found 2 cells \('0 a'\); need 4; repair"),
    (
        "RTE",
        "train",
        "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tyes\n",
        "line 2: found the label 'yes'; need one of ent",
    ),
    ("RTE", "train", "index\tsentence1\tsentence2\tlabel\n", "train.tsv has no rows; need at least one"),
    ("RTE", "train", "", "need sentence1, sentence2, label too; check that it is the official file of rte"),
    ("CoLA", "train", "gj04\t1\t\tA.\n\nb", r"line 2: found 1 cells \(''\); need 4"),
    ("CoLA", "dev", "source\tlabel\tmark\tsentence\n", "line 1: found the label 'label'; need one of 0, 1"),
    (
        "STS-B",
        "train",
        OFFICIAL["STS-B"]["train"].replace("4.750", "nan"),
        "line 2: found the score 'nan'; need a number",
    ),
    ("SST-2", "test", "index\tsentence\nx\tgood\n", "line 2: found the index 'x'; need a whole number"),
    ("QQP", "train", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\n", "train.tsv has no rows"),
]


@pytest.mark.parametrize(("folder", "split", "text", "message"), BAD)
def test_a_malformed_file_is_named_with_its_line(
    official: Path, folder: str, split: str, text: str, message: str
) -> None:
    (official / "glue" / folder / f"{split}.tsv").write_text(text)
    name = next(name for name, task in TASKS.items() if task.folder == folder)
    with pytest.raises(UserError, match=message) as caught:
        load_glue(name, data_root=official)
    assert "\n" not in str(caught.value) and f"{folder}/{split}.tsv" in str(caught.value)


def test_missing_files_say_where_it_looked_and_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_glue("mnli", data_root=tmp_path)
    for part in (str(tmp_path), "glue/MNLI/dev_mismatched", ".tsv (or .gz)", "unset SHARELORA_DATA", "--tiny"):
        assert part in str(caught.value)


def test_a_split_that_is_needed_and_not_there(official: Path) -> None:
    with pytest.raises(UserError, match=r"task rte from .*RTE has rows for train, test; need dev; add that split"):
        load_glue("rte", data_root=official).rows("dev")


def test_without_folder_and_hub_it_ends_at_once_with_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHARELORA_DATA", raising=False)
    with pytest.raises(UserError, match=r"cannot be reached; set SHARELORA_DATA=.*--train_file.*, or add --tiny"):
        load_glue("rte")


def test_a_task_and_own_files_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found the task rte and the own file mine.csv; need one of them"):
        load_glue("rte", train_file="mine.csv")


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


def hub_split(names: list[str], rows: list[dict[str, Any]], label: str = "label") -> datasets.Dataset:
    texts = {column: datasets.Value("string") for column in rows[0] if column not in (label, "idx")}
    kinds = {**texts, label: datasets.ClassLabel(names=names), "idx": datasets.Value("int32")}
    return datasets.Dataset.from_list(rows, features=datasets.Features(kinds))


def mnli_on_the_hub() -> Iterator[tuple[str, datasets.Dataset]]:
    for number, split in enumerate(("train", "validation_matched", "validation_mismatched", "test_matched")):
        label = -1 if split.startswith("test") else number
        row = {"premise": split, "hypothesis": "h", "label": label, "idx": 7}
        yield split, hub_split(["entailment", "neutral", "contradiction"], [row])


def test_the_splits_of_the_hub_get_the_names_of_the_official_files() -> None:
    hub = Hub(datasets.DatasetDict(dict(mnli_on_the_hub())))
    found = load_glue("mnli", load=hub).splits
    assert hub.asked == {"path": "nyu-mll/glue", "name": "mnli"}
    assert {split: rows[0]["premise"] for split, rows in found.items()} == {
        "train": "train",
        "dev_matched": "validation_matched",
        "dev_mismatched": "validation_mismatched",
        "test_matched": "test_matched",
    }
    assert found["dev_mismatched"][0] == {"premise": "validation_mismatched", "hypothesis": "h", "idx": 7, "label": 2}
    assert "label" not in found["test_matched"][0]


@pytest.mark.parametrize(
    ("names", "label", "message"),
    [
        (["yes", "no"], "label", "has the labels yes, no; need entailment, not_entailment"),
        (["entailment", "not_entailment"], "gold", "has the columns sentence1, sentence2, gold, idx; need label too"),
    ],
)
def test_other_labels_and_columns_on_the_hub_are_refused(names: list[str], label: str, message: str) -> None:
    rows = [{"sentence1": "a", "sentence2": "b", label: 0, "idx": 0}]
    with pytest.raises(UserError, match=message):
        load_glue("rte", load=Hub({"train": hub_split(names, rows, label)}))


def test_a_training_row_of_the_hub_without_a_label_and_a_failure() -> None:
    rows = [{"sentence1": "a", "sentence2": "b", "label": -1, "idx": 0}]
    with pytest.raises(UserError, match="train, row 1: found no label"):
        load_glue("rte", load=Hub({"train": hub_split(["entailment", "not_entailment"], rows)}))
    with pytest.raises(UserError, match=r"rte \(nyu-mll/glue\) cannot be loaded: OSError: gone; set SHARELORA_DATA"):
        load_glue("rte", load=Hub(OSError("gone")))
    with pytest.raises(UserError, match="has no rows for train, dev, test; set SHARELORA_DATA"):
        load_glue("rte", load=Hub({}))
