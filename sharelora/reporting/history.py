"""The log of a training as files: `loss.csv` always, `loss.png` where matplotlib is installed."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharelora.reporting.pictures import has_matplotlib, new_figure, picture_bytes
from sharelora.support.files import write_bytes, write_text

CSV = "loss.csv"
PNG = "loss.png"
_FIRST = ("step", "epoch", "loss", "eval_loss")


def write_history(folder: Path, history: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write what was logged, one row per step.

    Args:
        folder: the run's folder.
        history: the Trainer's log, one mapping per line.

    Returns:
        The files.
    """
    rows = _by_step(history)
    columns = [*_FIRST, *sorted({name for row in rows for name in row} - set(_FIRST))]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / CSV, text.getvalue())
    if not has_matplotlib():
        return [folder / CSV]
    write_bytes(folder / PNG, _plot(rows))
    return [folder / CSV, folder / PNG]


def _by_step(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Join the lines of one step: the Trainer logs training and evaluation separately."""
    rows: dict[int, dict[str, Any]] = {}
    for line in history:
        rows.setdefault(int(line["step"]), {}).update(line)
    return [rows[step] for step in sorted(rows)]


def _plot(rows: Sequence[Mapping[str, Any]]) -> bytes:
    figure = new_figure(7, 4)
    axes = figure.add_subplot()
    for name, label, style in (("loss", "training", "-"), ("eval_loss", "validation", "o-")):
        points = [(row["step"], row[name]) for row in rows if name in row]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
    axes.set(xlabel="updates", ylabel="loss")
    if axes.lines:
        axes.legend()
    return picture_bytes(figure, "png")
