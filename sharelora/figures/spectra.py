"""Singular values as pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharelora.pictures import new_figure, save_figure

COLUMNS = 4


def effective_rank(values: Sequence[float]) -> float:
    """Return the exponential of the entropy of singular values taken as parts of their sum (Roy and Vetterli, 2007).

    It is k for k equal values, and 0 if all are zero.
    """
    whole = sum(values)
    parts = [value / whole for value in values if value > 0] if whole else []
    return math.exp(-sum(part * math.log(part) for part in parts)) if parts else 0.0


def panels(count: int, width: float = 3.2, height: float = 2.6) -> tuple[Any, list[Any]]:
    """Return a figure and that many axes in rows of four."""
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    figure = new_figure(width * columns, height * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def short_name(matrix: str) -> str:
    """Return a matrix's name for a title: side, kind of module and layers."""
    side, *kind, layers, _ = matrix.removeprefix("lora_").split("/")
    return f"{side} of {'.'.join(kind[-1:])}{'' if layers == '*' else f', {layers}'}"


def draw_spectra(spectra: Mapping[str, Sequence[float]], ranks: Mapping[str, int], stem: Path) -> list[Path]:
    """Draw the singular values of joint changes, a panel per shared matrix, with the rank that was kept.

    Args:
        spectra: matrix name -> singular values, falling.
        ranks: matrix name -> its rank.
        stem: the files are called so, with an ending each.

    Returns:
        The files: SVG and PNG; none if there are no singular values.
    """
    shown = {name: values for name, values in spectra.items() if any(values)}
    if not shown:
        return []
    figure, axes = panels(len(shown))
    for panel, (name, values) in zip(axes, shown.items(), strict=True):
        _panel(panel, values, ranks[name])
        panel.set_title(short_name(name), fontsize=9)
    figure.supxlabel("number of the singular value of all sites' scaling * B A together", fontsize=8)
    return save_figure(figure, stem)


def _panel(axes: Any, values: Sequence[float], rank: int) -> None:
    # What rounding leaves of empty directions would stretch the axis.
    present = [value for value in values if value > 1e-6 * values[0]]
    kept = sum(value**2 for value in values[:rank]) / sum(value**2 for value in values)
    axes.semilogy(range(1, len(present) + 1), present, ".-", markersize=4)
    axes.axvline(rank + 0.5, color="C3", linewidth=1, label=f"rank {rank}: {kept:.1%} kept")
    axes.plot([], [], " ", label=f"effective rank {effective_rank(values):.1f}")
    axes.legend(fontsize=7)
    axes.tick_params(which="both", labelsize=7)
    axes.grid(alpha=0.3)
