"""The long run as a document: a straight line through its second half says whether something grows, table and plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import report
from benchmarks.speed.growth import line
from sharelora.reporting.document import opening
from sharelora.reporting.pictures import new_figure, save_figure
from sharelora.support.text import size

Window = Mapping[str, Any]
# Name in a window -> title, unit in the plot, factor to that unit.
SEEN = {
    "resident": ("resident memory", "MB", 1e-6),
    "handles": ("open file handles", "", 1.0),
    "threads": ("threads", "", 1.0),
    "cpu": ("median CPU time of an update", "ms", 1e3),
    "seconds": ("median time of an update", "ms", 1e3),
}
# Below this share of its level over as many updates again, growth is of no consequence.
NEGLIGIBLE = 0.02


def trend(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Return a straight line's slope and twice its standard error, at least three points.

    The error takes the points for independent. Memory is not: it moves in steps, so its error is a lower bound.
    """
    fit = line(xs, ys)
    x, y = np.asarray(xs, float), np.asarray(ys, float)
    left = float(((y - fit["intercept"] - fit["slope"] * x) ** 2).sum())
    spread = float(((x - x.mean()) ** 2).sum())
    return fit["slope"], 2 * math.sqrt(left / (len(xs) - 2) / spread)


def verdict(windows: Sequence[Window], name: str) -> str:
    """Say whether a value grows over the second half, and by how much if as many updates followed."""
    half = windows[len(windows) // 2 :]
    steps, values = [window["step"] for window in half], [window[name] for window in half]
    slope, error = trend(steps, values)
    level, length = sum(values) / len(values), windows[-1]["step"]
    if min(values) == max(values):
        return "constant"
    growth, least = slope * length / level, (slope - error) * length / level
    words = f"{100 * growth:+.1f} ± {100 * error * length / level:.1f} % over {length:,} more"
    if least > NEGLIGIBLE:
        return f"**grows**: {words}"
    return f"does not grow: {words}" if growth + error * length / level < NEGLIGIBLE else f"undecided: {words}"


def written(name: str, value: float) -> str:
    """Return a value with its unit."""
    if name == "resident":
        return size(value)
    return f"{1000 * value:.2f} ms" if name in ("cpu", "seconds") else f"{value:g}"


def table(windows: Sequence[Window]) -> str:
    """Return a table: a line for each value, a column for the first window and for each eighth of the run."""
    ends = [windows[0], *(windows[len(windows) * eighth // 8 - 1] for eighth in range(1, 9))]
    headers = ["after updates", *(f"{window['step']:,}" for window in ends), "second half"]
    rows = [
        [title, *(written(name, window[name]) for window in ends), verdict(windows, name)]
        for name, (title, _, _) in SEEN.items()
    ]
    return report.table(headers, rows)


def compose(result: Mapping[str, Any], command: str) -> str:
    """Return the document without notes."""
    windows = result["windows"]
    processes = len({window["process"] for window in windows})
    about = (
        f"`qlora_share.py {command}`: {windows[-1]['step']:,} updates in {processes} process"
        f"{'es' if processes > 1 else ''}, looked at {len(windows)} times; there are two evaluations and two "
        "checkpoints between two looks. The last column is a straight line through the second half, extrapolated over "
        "as many updates as the whole run has: relative to the mean, ± two standard errors; less than "
        f"{100 * NEGLIGIBLE:g} % counts as none."
    )
    return "\n\n".join((opening(result), about, table(windows), "![Memory, handles and time over updates](soak.svg)"))


def plot(windows: Sequence[Window], stem: Path) -> list[Path]:
    """Draw every value over the updates.

    Returns:
        The files: SVG and PNG.
    """
    figure = new_figure(7, 9)
    panels = figure.subplots(len(SEEN), 1, sharex=True)
    steps = [window["step"] for window in windows]
    for axes, (name, (title, unit, factor)) in zip(panels, SEEN.items(), strict=True):
        values = [factor * window[name] for window in windows]
        axes.plot(steps, values, ".-", markersize=4, linewidth=1)
        axes.set_title(f"{title} [{unit}]" if unit else title, fontsize=9)
        axes.set_ylim(0, 1.15 * max(values))
        axes.grid(alpha=0.3)
    figure.supxlabel("updates", fontsize=9)
    return save_figure(figure, stem)
