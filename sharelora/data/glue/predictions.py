"""Predictions in the format that GLUE's server takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharelora.data.glue.tasks import GlueTask
from sharelora.errors import UserError
from sharelora.files import write_text


def write_predictions(
    folder: str | Path,
    task: GlueTask,
    split: str,
    values: NDArray[np.floating[Any]],
    index: Sequence[int] | None = None,
) -> Path:
    """Write the predictions of a test split: `index` and `prediction`, tab-separated, under a header.

    Classes are written as in the official files, which are numbers for some tasks: the server takes nothing else.

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
