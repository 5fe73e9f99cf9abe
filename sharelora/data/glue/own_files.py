"""Own files as a task: the label and the text columns are found in them.

A label that is missing (null, NaN, an empty cell) or no number (the words nan, inf) is refused with its row: it would
be a class of its own. Where every other label is a score, so is any word. `None` among words is a class: it often means
none of them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from sharelora.data.folders import read_table
from sharelora.data.glue.tasks import GlueTask
from sharelora.data.rows import MISSING_WORDS, BadCell, Row, cell, columns_of, place
from sharelora.support.errors import UserError

logger = logging.getLogger(__name__)

NAME, LABEL = "own", "label"
# Columns that number rows are not text.
NUMBERS = ("idx", "index", "id")
SUBMISSION = {"test": "predictions.tsv"}
CLASS_METRICS, SCORE_METRICS = ("accuracy",), ("pearson", "spearmanr")
SHOWN = 8

Label = int | float | str
# What a split of ours is called in a folder.
FOLDER_SPLITS = {"train": "train", "dev": "eval", "test": "test"}


def read_own(files: Mapping[str, Path]) -> tuple[GlueTask, str, dict[str, list[Row]]]:
    """Read own files and make a task of what is in them.

    Texts are the columns sentence1 and sentence2 if there are both, else the first two columns, or the only one,
    besides `label` and those that number rows. Labels that are numbers with a fraction make it a regression; others are
    classes, sorted. The training file, or else the validation file, says which there are.

    Args:
        files: split (`train`, `dev`, `test`) -> file (csv, tsv, json, jsonl or parquet), or a folder that
            `folders.folder_splits` reads.

    Returns:
        The task, where it was found, and the rows by split.

    Raises:
        UserError: no file with labels, no text column, a cell that is not text, or a label that training does not have.
    """
    first = next((split for split in ("train", "dev") if split in files), None)
    if first is None:
        present = f"only the test file {files['test']}" if files else "neither a task nor own files"
        raise UserError(f"found {present}; need labels to learn; pass --task_name, --train_file or --validation_file")
    tables = {split: read_table(file, FOLDER_SPLITS[split]) for split, file in files.items()}
    columns = _text_columns(columns_of(tables[first]), files[first])
    classes = _classes(tables[first], files[first])
    metrics = CLASS_METRICS if classes else SCORE_METRICS
    task = GlueTask(NAME, "", columns, classes, metrics, splits=tuple(files), submission=SUBMISSION)
    splits = {split: _rows(tables[split], task, split, files[split]) for split in files}
    return task, ", ".join(map(str, files.values())), splits


def _text_columns(columns: Sequence[str], file: Path) -> tuple[str, ...]:
    if "sentence1" in columns and "sentence2" in columns:
        return ("sentence1", "sentence2")
    texts = tuple(column for column in columns if column != LABEL and column.lower() not in NUMBERS)
    if not texts:
        raise UserError(f"{file} has the columns {', '.join(columns)}; need one or two with text besides; add them")
    if len(texts) > 2:
        logger.warning(
            "warning: the texts are the columns %s; %s of %s are not used",
            " and ".join(texts[:2]),
            ", ".join(texts[2:]),
            file,
        )
    return texts[:2]


def _classes(rows: Sequence[Row], file: Path) -> tuple[str, ...]:
    """The names of the classes in the order of their ids; none where the labels are scores."""
    labels = [_label(row, number, file) for number, row in enumerate(rows, 1)]
    words = {label for label in labels if isinstance(label, str)}
    numbers = {label for label in labels if not isinstance(label, str)}
    # A word that says that a value is missing, among numbers only; or any word among scores.
    stray = words if words <= MISSING_WORDS or any(isinstance(label, float) for label in numbers) else set()
    if numbers and stray:
        wordy = [isinstance(label, str) for label in labels]
        odd = 2 * sum(wordy) <= len(labels)
        number = wordy.index(odd)
        raise UserError(
            f"{place(rows[number], number + 1, str(file))}: found the label {labels[number]!r} among "
            f"{'numbers' if odd else 'words'}; need labels of one kind; correct it or remove the row"
        )
    if not words and any(isinstance(label, float) for label in numbers):
        return ()
    names = sorted(map(str, words | numbers)) if words else [str(label) for label in sorted(numbers)]
    if len(names) < 2:
        raise UserError(f"{file} has the only label {names[0]}; need two or more, or scores; add rows of other labels")
    return tuple(names)


def _label(row: Row, number: int, file: Path) -> Label:
    where = place(row, number, str(file))
    if LABEL not in row:
        raise UserError(f"{where}: found the columns {', '.join(row)}; need {LABEL} too; add or rename it")
    try:
        text = cell(row, LABEL).strip()
        if not text:
            raise BadCell(f"nothing in column {LABEL}")
        value = row[LABEL]
        return value if isinstance(value, int | float) and not isinstance(value, bool) else _number(text)
    except BadCell as error:
        raise UserError(f"{where}: found {error}; need a class or a score; fill it in") from error


def _number(text: str) -> Label:
    """A label as what it says: a csv file has only text.

    Raises:
        BadCell: a number that is none: nan, inf.
    """
    for kind in (int, float):
        try:
            number: int | float = kind(text)
        except ValueError:
            continue
        if not math.isfinite(number):
            raise BadCell(f"{text} in column {LABEL}")
        return number
    return text


def _rows(table: Sequence[Row], task: GlueTask, split: str, file: Path) -> list[Row]:
    rows = []
    for number, row in enumerate(table, 1):
        try:
            texts: Row = {**{column: cell(row, column) for column in task.columns}, "idx": number - 1}
        except BadCell as error:
            raise UserError(
                f"{place(row, number, str(file))}: {error}; need text in {', '.join(task.columns)}; found the columns "
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
    where = place(row, number, str(file))
    raise UserError(f"{where}: found the label {label!r}; need {need}; check the file")
