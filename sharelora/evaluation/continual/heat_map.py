"""The matrices of a sequence as a picture: a panel per way of sharing, coloured by the gain over the base."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharelora.evaluation.continual.stages import Course
from sharelora.metrics.continual import Matrix
from sharelora.pictures import new_figure, save_figure


def gains(matrix: Matrix, lower_is_better: bool) -> list[list[float]]:
    """Return how much better every score is than the untouched model's; below 0 it is worse."""
    sign = -1.0 if lower_is_better else 1.0
    return [[sign * (score - before) for score, before in zip(row, matrix[0], strict=True)] for row in matrix]


def plot(tasks: Sequence[str], courses: Sequence[Course], title: str, lower_is_better: bool, stem: Path) -> list[Path]:
    """Draw the matrices.

    Args:
        tasks: in the order in which they were learnt.
        courses: one per panel.
        title: what the scores are.
        lower_is_better: whether they are losses.
        stem: the files are called so, with an ending each.

    Returns:
        The files, SVG and PNG; none where matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return []
    colours = [gains(course.matrix, lower_is_better) for course in courses]
    # One scale for all panels, the same on both sides of no change.
    most = max((abs(gain) for panel in colours for row in panel for gain in row), default=0.0) or 1.0
    figure = new_figure(1.6 + (0.75 * len(tasks) + 0.3) * len(courses), 1.5 + 0.42 * (len(tasks) + 1))
    panels = figure.subplots(1, len(courses), squeeze=False, sharey=True)[0]
    for axes, course, panel in zip(panels, courses, colours, strict=True):
        image = axes.imshow(panel, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
        _panel(axes, tasks, course, panel, most)
    scale = figure.colorbar(image, ax=panels, pad=0.02)
    scale.set_label("better than untouched by", fontsize=8)
    scale.ax.tick_params(labelsize=8)
    panels[0].set_yticks(range(len(tasks) + 1), ["untouched", *(f"after {name}" for name in tasks)], fontsize=8)
    figure.supxlabel(title, fontsize=8)
    return save_figure(figure, stem)


def _panel(axes: Any, tasks: Sequence[str], course: Course, panel: Matrix, most: float) -> None:
    for stage, row in enumerate(course.matrix):
        for task, score in enumerate(row):
            # Dark fields need light text.
            colour = "white" if abs(panel[stage][task]) > 0.6 * most else "black"
            axes.text(task, stage, f"{score:.3f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_title(f"share {course.share}", fontsize=9)
    axes.set_xticks(range(len(tasks)), tasks, fontsize=8)
    axes.tick_params(length=0)
