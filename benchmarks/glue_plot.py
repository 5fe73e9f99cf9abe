"""The GLUE comparison as a picture: a panel per task and one of their mean, every seed a dot, with error bars."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.glue_experiment import METHODS, Experiment, Run
from benchmarks.glue_table import Cell, Outcome, averages, by_seed
from sharelora.pictures import new_figure, save_figure


def plot(
    experiment: Experiment, found: Mapping[Cell, Mapping[Run, Outcome]], names: Sequence[str], stem: Path
) -> list[Path]:
    """Draw the scores.

    Args:
        experiment: what was compared.
        found: what the runs came to.
        names: methods, from top to bottom.
        stem: the files are called so, with an ending each.

    Returns:
        The files: SVG and PNG.
    """
    panels = {task.title: [by_seed(found, (key, m)) for m in names] for key, task in experiment.tasks.items()}
    panels["mean"] = [averages(experiment, found, method) for method in names]
    figure = new_figure(1.5 + 2.1 * len(panels), 0.9 + 0.35 * len(names))
    rows = figure.subplots(1, len(panels), squeeze=False, sharey=True)
    for axes, (title, scores) in zip(rows[0], panels.items(), strict=True):
        _panel(axes, title, names, scores)
    figure.supxlabel("dev score in hundredths: every seed, mean and standard deviation", fontsize=8)
    return save_figure(figure, stem)


def _panel(axes: Any, title: str, names: Sequence[str], scores: Sequence[Mapping[int, float]]) -> None:
    for place, found in enumerate(scores):
        values = list(found.values())
        colour = f"C{place}"
        axes.plot(values, [place - 0.18] * len(values), ".", color=colour, alpha=0.4, markersize=5)
        if values:
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            axes.errorbar(
                statistics.fmean(values), place + 0.12, xerr=deviation, fmt="o", color=colour, capsize=3, markersize=5
            )
    axes.set_title(title, fontsize=9)
    axes.set_yticks(range(len(names)), [METHODS[name].title for name in names], fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.3)
