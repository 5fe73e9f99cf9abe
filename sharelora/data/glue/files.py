"""GLUE's official files, and predictions in the form that its server takes.

Both are tab-separated, one example a line; quotes are characters like any other.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharelora.data.glue.tasks import GlueTask
from sharelora.data.rows import BadCell, Row, read_text, summary
from sharelora.support.errors import UserError
from sharelora.support.files import write_text

logger = logging.getLogger(__name__)

# Broken lines that a warning lists.
SHOWN = 5


class _WrongLength(BadCell):
    """A line with more or fewer cells than the header."""


def read_split(path: Path, task: GlueTask, split: str) -> list[Row]:
    """Read one official file.

    Args:
        path: a .tsv or .tsv.gz file.
        task: whose file it is.
        split: its split; test files have no label and a header always.

    Returns:
        Rows with the task's text columns, `idx` and, except for test, `label`.

    Raises:
        UserError: unreadable, empty, without a needed column, or with a malformed line (file and line are named).
    """
    lines = read_text(path).removesuffix("\n").split("\n")
    test = split in task.test_splits
    bare = bool(task.headerless) and not test
    header = task.headerless if bare else _cells(lines[0])
    parse = _parser(header, task, test, path)
    rows: list[Row] = []
    broken: list[int] = []
    for number, line in enumerate(lines if bare else lines[1:], 1 if bare else 2):
        try:
            cells = _cells(line)
            if len(cells) != len(header):
                raise _WrongLength(f"found {len(cells)} cells ({summary(line)!r}); need {len(header)}")
            rows.append(parse(cells, len(rows)))
        except BadCell as error:
            if not (task.broken_lines and isinstance(error, _WrongLength)):
                raise UserError(f"{path}, line {number}: {error}; repair the file or copy it again") from error
            broken.append(number)
    if broken:
        first = ", ".join(map(str, broken[:SHOWN])) + (", ..." if len(broken) > SHOWN else "")
        logger.warning("%s: left out %d lines that are cut in two (%s)", path, len(broken), first)
    if not rows:
        raise UserError(f"{path} has no rows; need at least one; check the file")
    return rows


def _cells(line: str) -> tuple[str, ...]:
    return tuple(line.removesuffix("\r").split("\t"))


def _parser(header: Sequence[str], task: GlueTask, test: bool, path: Path) -> Callable[[Sequence[str], int], Row]:
    """A function from a line's cells and the row's number to the row."""
    texts = task.tsv_columns or task.columns
    wanted = texts if test else (*texts, task.tsv_label)
    missing = [name for name in wanted if name not in header]
    if missing:
        raise UserError(
            f"{path} has the columns {', '.join(header) or 'none'}; need {', '.join(missing)} too; check that it is "
            f"the official file of {task.name}"
        )
    positions = {column: header.index(name) for column, name in zip(task.columns, texts, strict=True)}
    label = None if test else header.index(task.tsv_label)
    index = header.index(task.tsv_index) if test and task.tsv_index in header else None

    def parse(cells: Sequence[str], number: int) -> Row:
        row: Row = {column: cells[position] for column, position in positions.items()}
        row["idx"] = number if index is None else _whole(cells[index])
        return row if label is None else {**row, "label": _label(cells[label], task)}

    return parse


def _whole(cell: str) -> int:
    try:
        return int(cell)
    except ValueError as error:
        raise BadCell(f"found the index {cell!r}; need a whole number") from error


def _label(cell: str, task: GlueTask) -> int | float:
    if not task.regression:
        if cell not in task.written_labels:
            raise BadCell(f"found the label {cell!r}; need one of {', '.join(task.written_labels)}")
        return task.written_labels.index(cell)
    try:
        score = float(cell)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise BadCell(f"found the score {cell!r}; need a number")
    return score


def write_predictions(
    folder: str | Path,
    task: GlueTask,
    split: str,
    values: NDArray[np.floating[Any]],
    index: Sequence[int] | None = None,
) -> Path:
    """Write the predictions of a test split: `index` and `prediction`, tab-separated, under a header.

    Classes are written as in the official files, which are numbers for some tasks: the server accepts only these.

    Args:
        folder: where; the file is called as GLUE asks, e.g. `MNLI-m.tsv`.
        task: the task.
        split: one of its test splits.
        values: logits of shape (N, classes), or scores of shape (N) or (N, 1).
        index: the rows' numbers (`idx`), by default 0 to N-1.

    Returns:
        The file.

    Raises:
        UserError: values that are not numbers, or the folder cannot be written.
    """
    if not np.isfinite(values).all():
        raise UserError("the model's predictions are not numbers: training diverged; lower --learning_rate")
    written = list(_scores(values, task) if task.regression else _classes(values, task))
    numbers = range(len(written)) if index is None else index
    lines = [f"{number}\t{prediction}\n" for number, prediction in zip(numbers, written, strict=True)]
    path = Path(folder) / task.submission[split]
    write_text(path, "".join(["index\tprediction\n", *lines]))
    return path


def _classes(values: NDArray[np.floating[Any]], task: GlueTask) -> Iterator[str]:
    if values.ndim != 2 or values.shape[1] != task.num_labels:
        raise ValueError(f"logits of shape {values.shape} for {task.num_labels} classes")
    return (task.written_labels[label] for label in values.argmax(axis=1))


def _scores(values: NDArray[np.floating[Any]], task: GlueTask) -> Iterator[str]:
    scores = values.reshape(len(values))
    if task.bounds is not None:
        scores = scores.clip(*task.bounds)
    return (f"{score:.3f}" for score in scores)
