"""Own files: their columns and labels make the task, as in LoRA's script; what does not fit is named with its row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from sharelora.data.glue import load_glue
from sharelora.support.errors import UserError

Write = Callable[..., Path]


def pairs(*labels: Any) -> list[dict[str, Any]]:
    return [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)]


def test_csv_and_json_give_the_same_task(tmp_path: Path, write_rows: Write) -> None:
    table = tmp_path / "train.csv"
    table.write_text('id,text,label\n7,"a, b",pos\n8,c,neg\n')
    dev = write_rows("dev.jsonl", [{"text": "d", "label": "pos"}])
    test = tmp_path / "test.json"
    test.write_text(json.dumps([{"text": "e"}, {"text": "f"}]))
    found = load_glue(None, train_file=table, validation_file=dev, test_file=str(test))
    assert found.task.columns == ("text",) and found.task.labels == ("neg", "pos")
    assert found.task.metrics == ("accuracy",) and found.task.num_labels == 2
    assert found.splits["train"] == [{"text": "a, b", "idx": 0, "label": 1}, {"text": "c", "idx": 1, "label": 0}]
    assert found.rows("dev")[0]["label"] == 1
    assert found.rows("test") == [{"text": "e", "idx": 0}, {"text": "f", "idx": 1}]
    assert found.origin == f"{table}, {dev}, {test}"


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"x": "a", "sentence2": "b", "sentence1": "c"}, ("sentence1", "sentence2")),
        ({"idx": 3, "first": "a", "second": "b", "third": "c"}, ("first", "second")),
        ({"only": "a"}, ("only",)),
    ],
)
def test_the_text_columns_are_chosen_as_upstream(
    row: dict[str, Any], columns: tuple[str, ...], write_rows: Write
) -> None:
    file = write_rows("train.jsonl", [{**row, "label": label} for label in (0, 1)])
    assert load_glue(None, train_file=file).task.columns == columns


@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [
        ([10, 9, 10], ("9", "10"), [1, 0, 1]),
        (["10", "9"], ("9", "10"), [1, 0]),
        (["b", "a"], ("a", "b"), [1, 0]),
        ([True, False], ("False", "True"), [1, 0]),
        ([1, "a"], ("1", "a"), [0, 1]),
        ([0.5, 1], (), [0.5, 1.0]),
        (["0.5", "2"], (), [0.5, 2.0]),
    ],
)
def test_labels_are_sorted_classes_or_scores(
    labels: list[Any], names: tuple[str, ...], ids: list[float], write_rows: Write
) -> None:
    found = load_glue(None, train_file=write_rows("train.jsonl", pairs(*labels)))
    assert found.task.labels == names and found.task.regression is (names == ())
    assert [row["label"] for row in found.rows("train")] == ids
    assert found.task.metrics == (("accuracy",) if names else ("pearson", "spearmanr"))


@pytest.mark.parametrize("labels", [["0", "1", "0"], ["0.5", "1.25", "3"], ["pos", "neg", "pos"]])
@pytest.mark.parametrize("gap", ["", " ", "nan", "NaN", "-inf"])
def test_a_label_that_is_missing_is_no_class(tmp_path: Path, labels: list[str], gap: str) -> None:
    """It is refused with its row and line; scores stay scores, whatever one cell says."""
    for name, cells in (("train", [*labels, gap]), ("dev", [gap])):
        file, good = tmp_path / f"{name}.csv", tmp_path / "good.csv"
        file.write_text("text,label\n" + "".join(f"t,{cell}\n" for cell in cells))
        good.write_text("text,label\n" + "".join(f"t,{cell}\n" for cell in labels))
        files = {"train_file": good, "validation_file": good} | {
            {"train": "train_file", "dev": "validation_file"}[name]: file
        }
        where = rf"{name}.csv, row {len(cells)} \(line {len(cells) + 1}\): found .* in column label; need a class or"
        with pytest.raises(UserError, match=where):
            load_glue(None, **files)


@pytest.mark.parametrize("labels", [[float("nan"), 0.5, 1.0], [None, 0, 1], [float("inf"), 0, 1]])
def test_a_missing_label_of_json_is_no_class(labels: list[Any], write_rows: Write) -> None:
    with pytest.raises(UserError, match=r"train.jsonl, row 1: found .* in column label"):
        load_glue(None, train_file=write_rows("train.jsonl", pairs(*labels)))


@pytest.mark.parametrize(
    ("labels", "word"), [(["0", "1", "N/A"], "N/A"), ([0, 1, "None"], "None"), (["0.5", "much", "1"], "much")]
)
def test_a_word_among_numbers_that_means_none_or_among_scores_is_refused(
    labels: list[Any], word: str, write_rows: Write
) -> None:
    with pytest.raises(
        UserError, match=rf"train.jsonl, row \d: found the label '{word}' among numbers; need labels of one kind"
    ):
        load_glue(None, train_file=write_rows("train.jsonl", pairs(*labels)))


def test_a_score_among_words_is_refused(write_rows: Write) -> None:
    with pytest.raises(
        UserError, match=r"train.jsonl, row 2: found the label 0.5 among words; need labels of one kind"
    ):
        load_glue(None, train_file=write_rows("train.jsonl", pairs("a", 0.5, "b")))


def test_none_among_words_is_a_class(write_rows: Write) -> None:
    found = load_glue(None, train_file=write_rows("train.jsonl", pairs("joy", "None", "joy")))
    assert found.task.labels == ("None", "joy")


def test_text_that_is_missing_is_refused_and_more_columns_are_said(
    tmp_path: Path, write_rows: Write, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_rows("train.jsonl", [{**row, "more": "b", "source": "c"} for row in pairs(0, 1)])
    assert load_glue(None, train_file=file).task.columns == ("text", "more")
    assert "the texts are the columns text and more; source of" in caplog.text
    (tmp_path / "gap.csv").write_text("text,label\na,0\n,1\n")
    with pytest.raises(UserError, match=r"gap.csv, row 2 \(line 3\): nothing in column text; need text in text"):
        load_glue(None, train_file=tmp_path / "gap.csv")


def test_a_folder_is_an_own_file(tmp_path: Path) -> None:
    """A folder as the hub lays it out, and one that `datasets` saved, each with a split for each flag."""
    rows = {"train": pairs("b", "a"), "validation": pairs("a"), "test": [{"text": "t"}]}
    (tmp_path / "hub" / "data").mkdir(parents=True)
    saved = {}
    for split, part in rows.items():
        saved[split] = datasets.Dataset.from_list(part)
        saved[split].to_parquet(tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet")
    datasets.DatasetDict(saved).save_to_disk(tmp_path / "disk")
    for folder in (tmp_path / "hub", tmp_path / "disk"):
        found = load_glue(None, train_file=folder, validation_file=folder, test_file=folder)
        assert found.task.labels == ("a", "b")
        assert [row["label"] for row in found.rows("train")] == [1, 0] and len(found.rows("dev")) == 1
        assert found.rows("test") == [{"text": "t", "idx": 0}]


def test_evaluation_alone_takes_the_labels_from_the_validation_file(write_rows: Write) -> None:
    found = load_glue(None, validation_file=write_rows("dev.jsonl", pairs("b", "a")))
    assert found.task.labels == ("a", "b") and found.task.splits == ("dev",)


@pytest.mark.parametrize(
    ("train", "dev", "message"),
    [
        (pairs(0, 1), pairs(0, 2), r"dev.jsonl, row 2: found the label 2; need one of 0, 1"),
        (pairs(0.5, 1), pairs("x"), r"dev.jsonl, row 1: found the label 'x'; need a number"),
        (pairs(0, 1), [{"text": "a"}], r"dev.jsonl, row 1: found the columns text; need label too"),
        ([{"text": "a"}], pairs(0), r"train.jsonl, row 1: found the columns text; need label too"),
        (pairs(0, None), pairs(0), r"train.jsonl, row 2: found nothing in column label; need a class or a score"),
        (pairs(1, 1), pairs(1), r"train.jsonl has the only label 1; need two or more"),
        (
            pairs(0, 1),
            [{"body": "a", "label": 0}],
            r"dev.jsonl, row 1: nothing in column text; need text in text; found",
        ),
        ([{"idx": 1, "label": 0}], pairs(0), r"train.jsonl has the columns idx, label; need one or two with text"),
        ([], pairs(0), r"train.jsonl is empty; need at least one row"),
    ],
)
def test_what_does_not_fit_is_named(
    train: list[dict[str, Any]], dev: list[dict[str, Any]], message: str, write_rows: Write
) -> None:
    files = {"train_file": write_rows("train.jsonl", train), "validation_file": write_rows("dev.jsonl", dev)}
    with pytest.raises(UserError, match=message) as caught:
        load_glue(None, **files)
    assert "\n" not in str(caught.value)


def test_nothing_to_learn_from(write_rows: Write) -> None:
    with pytest.raises(UserError, match="found neither a task nor own files; need labels to learn; pass --task_name"):
        load_glue(None)
    with pytest.raises(UserError, match=r"found only the test file .*test.jsonl; need labels"):
        load_glue(None, test_file=write_rows("test.jsonl", [{"text": "a"}]))
