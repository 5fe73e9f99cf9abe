"""Compared runs as a picture: every seed a dot, with mean and standard deviation, a row per method."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharelora.reporting.pictures import new_figure, save_figure


def plot_scores(
    labels: Sequence[str],
    panels: Mapping[str, Sequence[Sequence[float]]],
    about: str,
    stem: Path,
    colours: Sequence[str] | None = None,
    width: float | None = None,
) -> list[Path]:
    """Draw a panel per score.

    Args:
        labels: of the methods, from top to bottom.
        panels: title of a score -> the values of each method, one per seed; a method may have none.
        about: what the values are, below all panels.
        stem: the path of the files without the ending.
        colours: of the methods; each has its own unless given.
        width: of the picture in inches; by the number of panels unless given.

    Returns:
        The files: SVG and PNG.
    """
    colours = colours or [f"C{row % 10}" for row in range(len(labels))]
    figure = new_figure(width or 1.5 + 2.1 * len(panels), 0.9 + 0.35 * len(labels))
    axes_row = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, methods) in zip(axes_row, panels.items(), strict=True):
        for row, (values, colour) in enumerate(zip(methods, colours, strict=True)):
            _draw_row(axes, row, values, colour)
        axes.set_title(title, fontsize=9)
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(axis="x", alpha=0.3)
    figure.supxlabel(about, fontsize=8)
    return save_figure(figure, stem)


def _draw_row(axes: Any, row: int, values: Sequence[float], colour: str) -> None:
    """Draw the seeds slightly above the line of a method, and mean and deviation slightly below it."""
    axes.plot(values, [row - 0.18] * len(values), ".", color=colour, alpha=0.4, markersize=5)
    if values:
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        mean = statistics.fmean(values)
        axes.errorbar(mean, row + 0.12, xerr=deviation, fmt="o", color=colour, capsize=3, markersize=5)
