"""The GLUE comparison as a picture: a panel per task and one of their mean, every seed a dot, with error bars."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.glue_experiment import METHODS, Experiment, Run
from benchmarks.glue_table import Cell, Outcome, averages, by_seed
from sharelora.files import write_bytes

FORMATS = ("svg", "png")
# The same numbers give the same file.
_METADATA: Mapping[str, dict[str, Any]] = {"svg": {"Date": None}, "png": {"Software": None}}


def plot(
    experiment: Experiment, found: Mapping[Cell, Mapping[Run, Outcome]], names: Sequence[str], stem: Path
) -> list[Path]:
    """Draw the scores.

    Args:
        experiment: what was compared.
        found: what the runs came to.
        names: methods, from left to right.
        stem: the files are called so, with an ending each.

    Returns:
        The files: SVG and PNG.
    """
    # The object interface needs no display and changes no global state.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = {task.title: [by_seed(found, (key, m)) for m in names] for key, task in experiment.tasks.items()}
    panels["mean"] = [averages(experiment, found, method) for method in names]
    figure = Figure(figsize=(2.6 * len(panels), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, scores) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        _panel(axes, title, names, scores)
    made = []
    with matplotlib.rc_context({"svg.hashsalt": "sharelora"}):
        for ending in FORMATS:
            picture = io.BytesIO()
            figure.savefig(picture, format=ending, dpi=120, metadata=_METADATA[ending])
            made.append(stem.with_suffix(f".{ending}"))
            write_bytes(made[-1], picture.getvalue())
    return made


def _panel(axes: Any, title: str, names: Sequence[str], scores: Sequence[Mapping[int, float]]) -> None:
    for place, found in enumerate(scores):
        values = list(found.values())
        colour = f"C{place}"
        axes.plot([place] * len(values), values, ".", color=colour, alpha=0.4, markersize=5)
        if values:
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            axes.errorbar(
                place + 0.18, statistics.fmean(values), deviation, fmt="o", color=colour, capsize=4, markersize=5
            )
    axes.set_title(title, fontsize=10)
    axes.set_xticks(range(len(names)), [METHODS[name].title for name in names], rotation=60, ha="right", fontsize=8)
    axes.grid(axis="y", alpha=0.3)
