"""The GLUE comparison as a picture: a panel per task and one of their mean, every seed a dot, with error bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import score_plot
from benchmarks.glue_experiment import METHODS, Experiment, Run
from benchmarks.glue_table import Cell, Outcome, averages, by_seed


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
    values = {title: [list(found.values()) for found in scores] for title, scores in panels.items()}
    about = "dev score in hundredths: every seed, mean and standard deviation"
    return score_plot.plot([METHODS[name].title for name in names], values, about, stem)
