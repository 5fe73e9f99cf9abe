"""Own files as a task: the label and the text columns are found in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharelora.data.glue.tasks import GlueTask
from sharelora.data.rows import BadCell, Row, cell, read_rows
from sharelora.support.errors import UserError

NAME, LABEL = "own", "label"
# Columns that number rows are not text.
NUMBERS = ("idx", "index", "id")
SUBMISSION = {"test": "predictions.tsv"}
CLASS_METRICS, SCORE_METRICS = ("accuracy",), ("pearson", "spearmanr")
SHOWN = 8

Label = int | float | str


def read_own(files: Mapping[str, Path]) -> tuple[GlueTask, str, dict[str, list[Row]]]:
    """Read own files and make a task of what is in them.

    Texts are the columns sentence1 and sentence2 if there are both, else the first two columns, or the only one,
    besides `label` and those that number rows. Labels that are numbers with a fraction make it a regression; others are
    classes, sorted. The training file, or else the validation file, says which there are.

    Args:
        files: split (`train`, `dev`, `test`) -> file; csv, tsv, json, jsonl or parquet.

    Returns:
        The task, where it was found, and the rows by split.

    Raises:
        UserError: no file with labels, no text column, a cell that is not text, or a label that training does not have.
    """
    first = next((split for split in ("train", "dev") if split in files), None)
    if first is None:
        present = f"only the test file {files['test']}" if files else "neither a task nor own files"
        raise UserError(f"found {present}; need labels to learn; pass --task_name, --train_file or --validation_file")
    tables = {split: read_rows(file) for split, file in files.items()}
    columns = _text_columns(tables[first][0], files[first])
    classes = _classes(tables[first], files[first])
    metrics = CLASS_METRICS if classes else SCORE_METRICS
    task = GlueTask(NAME, "", columns, classes, metrics, splits=tuple(files), submission=SUBMISSION)
    splits = {split: _rows(tables[split], task, split, files[split]) for split in files}
    return task, ", ".join(map(str, files.values())), splits


def _text_columns(row: Row, file: Path) -> tuple[str, ...]:
    if "sentence1" in row and "sentence2" in row:
        return ("sentence1", "sentence2")
    columns = tuple(column for column in row if column != LABEL and column.lower() not in NUMBERS)[:2]
    if not columns:
        raise UserError(f"{file} has the columns {', '.join(row)}; need one or two with text besides; add them")
    return columns


def _classes(rows: Sequence[Row], file: Path) -> tuple[str, ...]:
    """The names of the classes in the order of their ids; none where the labels are scores."""
    labels = {_label(row, number, file) for number, row in enumerate(rows, 1)}
    numbers = [label for label in labels if not isinstance(label, str)]
    if len(numbers) == len(labels):
        if any(isinstance(label, float) for label in numbers):
            return ()
        names = [str(label) for label in sorted(numbers)]
    else:
        names = sorted(map(str, labels))
    if len(names) < 2:
        raise UserError(f"{file} has the only label {names[0]}; need two or more, or scores; add rows of other labels")
    return tuple(names)


def _label(row: Row, number: int, file: Path) -> Label:
    if LABEL not in row:
        raise UserError(f"{file}, row {number}: found the columns {', '.join(row)}; need {LABEL} too; add or rename it")
    try:
        value = row[LABEL] if isinstance(row[LABEL], int | float) else cell(row, LABEL).strip()
    except BadCell as error:
        raise UserError(f"{file}, row {number}: found {error}; need a class or a score; fill it in") from error
    return _number(value)


def _number(value: Any) -> Label:
    """A label as what it says: a csv file has only text."""
    if isinstance(value, bool):
        return str(value)
    for kind in (int, float) if isinstance(value, str) else ():
        try:
            number = kind(value)
        except ValueError:
            continue
        return number if math.isfinite(number) else value
    return value


def _rows(table: Sequence[Row], task: GlueTask, split: str, file: Path) -> list[Row]:
    rows = []
    for number, row in enumerate(table, 1):
        try:
            texts: Row = {**{column: cell(row, column) for column in task.columns}, "idx": number - 1}
        except BadCell as error:
            raise UserError(
                f"{file}, row {number}: {error}; need text in {', '.join(task.columns)}; found the columns "
                f"{', '.join(row)}; fill in or rename them"
            ) from error
        rows.append(texts if split == "test" else {**texts, "label": _id(row, task, number, file)})
    return rows


def _id(row: Row, task: GlueTask, number: int, file: Path) -> int | float:
    label = _label(row, number, file)
    if not task.regression and str(label) in task.labels:
        return task.labels.index(str(label))
    if task.regression and not isinstance(label, str):
        return float(label)
    names = ", ".join(task.labels[:SHOWN]) + (", ..." if len(task.labels) > SHOWN else "")
    need = "a number" if task.regression else f"one of {names}"
    raise UserError(f"{file}, row {number}: found the label {label!r}; need {need}; check the file")
