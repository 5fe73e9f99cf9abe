"""Growth of time with layers, rank and tokens: straight lines, how well they fit, and a plot of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.steps import AXES
from benchmarks.speed.variants import VARIANTS
from sharelora.reporting.pictures import new_figure, picture_bytes
from sharelora.support.files import write_bytes

# A fit needs more points than a line has numbers.
_LEAST_POINTS = 3


def line(xs: Sequence[float], ys: Sequence[float]) -> dict[str, float]:
    """Fit y = intercept + slope * x by least squares.

    Returns:
        `slope`, `intercept` and `r2`, the share of y's variance that the line explains.
    """
    x, y = np.asarray(xs, float), np.asarray(ys, float)
    slope, intercept = np.polyfit(x, y, 1)
    left, total = ((y - intercept - slope * x) ** 2).sum(), ((y - y.mean()) ** 2).sum()
    return {"slope": float(slope), "intercept": float(intercept), "r2": float(1 - left / total) if total else 1.0}


def _along(rows: Sequence[dict[str, Any]], base: dict[str, Any], axis: str) -> list[dict[str, Any]]:
    """Return the measured cells that differ from a base in one number only, ordered by it."""
    fixed = {key: value for key, value in base.items() if key != axis}
    chosen = [row for row in rows if {k: v for k, v in row["cell"].items() if k != axis} == fixed]
    return sorted(chosen, key=lambda row: row["cell"][axis])


def series(rows: Sequence[dict[str, Any]], bases: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield every measured curve with its fit.

    Args:
        rows: measured cells, each with `cell` and `variants`.
        bases: the configurations around which they vary.

    Yields:
        `base`, `axis`, `variant`, `x`, `seconds` (median per step), `low`, `high`, the fit of the step, and under
        `adapter` the fit of what the step takes beyond the floor.
    """
    for base in bases:
        for axis in AXES:
            chosen = _along(rows, base, axis)
            if len(chosen) >= _LEAST_POINTS:
                yield from ({"base": base, "axis": axis, **_curve(chosen, axis, name)} for name in _names(chosen, axis))


def _names(chosen: Sequence[dict[str, Any]], axis: str) -> list[str]:
    everywhere = [name for name in chosen[0]["variants"] if all(name in row["variants"] for row in chosen)]
    # The frozen base has no rank.
    return [name for name in everywhere if (axis, name) != ("rank", "floor")]


def _curve(chosen: Sequence[dict[str, Any]], axis: str, name: str) -> dict[str, Any]:
    xs = [row["cell"][axis] for row in chosen]
    steps = [row["variants"][name]["step"] for row in chosen]
    medians = [step["median"] for step in steps]
    curve: dict[str, Any] = {
        "variant": name,
        "x": xs,
        "seconds": medians,
        "low": [s["low"] for s in steps],
        "high": [s["high"] for s in steps],
    }
    curve["fit"] = line(xs, medians)
    if name != "floor" and all("floor" in row["variants"] for row in chosen):
        floors = [row["variants"]["floor"]["step"]["median"] for row in chosen]
        curve["adapter"] = line(xs, [a - b for a, b in zip(medians, floors, strict=True)])
    return curve


def plot(curves: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the curves: a row per precision and dropout, a column per axis, points with quartiles and fitted lines."""
    bases = list({(c["base"]["dtype"], c["base"]["dropout"]): None for c in curves})
    figure = new_figure(5 * len(AXES), 3.8 * len(bases))
    axes = figure.subplots(len(bases), len(AXES), squeeze=False)
    for row, (dtype, dropout) in enumerate(bases):
        for column, axis in enumerate(AXES):
            chosen = [c for c in curves if (c["base"]["dtype"], c["base"]["dropout"]) == (dtype, dropout)]
            _panel(axes[row][column], [c for c in chosen if c["axis"] == axis], axis)
        axes[row][0].set_ylabel(f"{dtype}, dropout {dropout:g}\nms per step")
    write_bytes(path, picture_bytes(figure, "png"))


def _panel(axes: Any, curves: Sequence[dict[str, Any]], axis: str) -> None:
    for curve in sorted(curves, key=lambda c: -c["seconds"][-1]):
        x, y = np.asarray(curve["x"], float), 1000 * np.asarray(curve["seconds"])
        spread = [y - 1000 * np.asarray(curve["low"]), 1000 * np.asarray(curve["high"]) - y]
        label = f"{curve['variant']} (R² {curve['fit']['r2']:.4f})"
        # One colour per variant in all panels.
        colour = f"C{list(VARIANTS).index(curve['variant']) % 10}"
        axes.errorbar(x, y, yerr=np.maximum(spread, 0), fmt="o", capsize=2, label=label, color=colour)
        fit = curve["fit"]
        axes.plot(x, 1000 * (fit["intercept"] + fit["slope"] * x), color=colour, linewidth=1)
    axes.set_xlabel(axis)
    axes.set_ylim(bottom=0)
    if curves:
        axes.legend(fontsize=7)
