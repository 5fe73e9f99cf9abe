"""Compared runs as a picture: a panel per score and a line per method, every seed a dot, with error bars."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharelora.reporting.pictures import new_figure, save_figure


def plot(labels: Sequence[str], panels: Mapping[str, Sequence[Sequence[float]]], about: str, stem: Path) -> list[Path]:
    """Draw scores.

    Args:
        labels: of the methods, from top to bottom.
        panels: title of a score -> the values of each method, one per seed; a method may have none.
        about: what the values are, below all panels.
        stem: the files are called so, with an ending each.

    Returns:
        The files: SVG and PNG.
    """
    figure = new_figure(1.5 + 2.1 * len(panels), 0.9 + 0.35 * len(labels))
    rows = figure.subplots(1, len(panels), squeeze=False, sharey=True)
    for axes, (title, methods) in zip(rows[0], panels.items(), strict=True):
        _panel(axes, title, labels, methods)
    figure.supxlabel(about, fontsize=8)
    return save_figure(figure, stem)


def _panel(axes: Any, title: str, labels: Sequence[str], methods: Sequence[Sequence[float]]) -> None:
    for place, values in enumerate(methods):
        colour = f"C{place}"
        axes.plot(values, [place - 0.18] * len(values), ".", color=colour, alpha=0.4, markersize=5)
        if values:
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            axes.errorbar(
                statistics.fmean(values), place + 0.12, xerr=deviation, fmt="o", color=colour, capsize=3, markersize=5
            )
    axes.set_title(title, fontsize=9)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.3)
