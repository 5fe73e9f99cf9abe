"""The windows of a long run: recorded while it trains, judged by a straight line through its second half, and drawn."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from transformers import TrainerCallback, TrainerState

from benchmarks.harness import report
from benchmarks.speed.growth import line
from sharelora.reporting.document import opening
from sharelora.reporting.pictures import new_figure, save_figure
from sharelora.support.files import write_json
from sharelora.support.reading import read_json
from sharelora.support.text import size

FILE = "windows.json"
Window = Mapping[str, Any]
# Name in a window -> title, unit in the plot, factor to that unit.
VALUES = {
    "resident": ("resident memory", "MB", 1e-6),
    "handles": ("open file handles", "", 1.0),
    "threads": ("threads", "", 1.0),
    "cpu": ("median CPU time of an update", "ms", 1e3),
    "seconds": ("median time of an update", "ms", 1e3),
}
# Below this share of its level over as many updates again, growth is of no consequence.
NEGLIGIBLE = 0.02


class Watch(TrainerCallback):
    """Record the state of this process after every window of updates.

    Args:
        file: a JSON list, one entry per window; a run that resumes from a checkpoint continues it.
        every: updates of a window.
    """

    def __init__(self, file: Path, every: int) -> None:
        self.file, self.every = file, every
        self.times: list[tuple[float, float]] = []
        self.windows: list[dict[str, Any]] = []
        self._mark = (0.0, 0.0)

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Keep the windows up to the checkpoint that the run resumes from."""
        before = read_json(self.file, [dict]) if state.global_step and self.file.is_file() else []
        self.windows = [window for window in before if window["step"] <= state.global_step]

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Start the clock: evaluations and checkpoints come between the end of an update and the next one."""
        self._mark = clocks()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Stop the clock, and look at the process at the end of a window."""
        wall, cpu = clocks()
        self.times.append((wall - self._mark[0], cpu - self._mark[1]))
        if state.global_step % self.every:
            return
        medians = zip(("seconds", "cpu"), map(statistics.median, zip(*self.times, strict=True)), strict=True)
        self.windows.append({"step": state.global_step, **process_state(), **dict(medians)})
        self.times.clear()
        write_json(self.file, self.windows)


def clocks() -> tuple[float, float]:
    """Return seconds by the clock, and CPU seconds of this process, which other work on the machine hardly changes."""
    return time.perf_counter(), time.process_time()


def process_state() -> dict[str, int]:
    """Return this process's id, resident bytes, open file handles, threads and child processes."""
    process = psutil.Process()
    with process.oneshot():
        return {
            "process": os.getpid(),
            "resident": process.memory_info().rss,
            "handles": process.num_fds(),
            "threads": process.num_threads(),
            "children": len(process.children()),
        }


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
        for name, (title, _, _) in VALUES.items()
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
    panels = figure.subplots(len(VALUES), 1, sharex=True)
    steps = [window["step"] for window in windows]
    for axes, (name, (title, unit, factor)) in zip(panels, VALUES.items(), strict=True):
        values = [factor * window[name] for window in windows]
        axes.plot(steps, values, ".-", markersize=4, linewidth=1)
        axes.set_title(f"{title} [{unit}]" if unit else title, fontsize=9)
        axes.set_ylim(0, 1.15 * max(values))
        axes.grid(alpha=0.3)
    figure.supxlabel("updates", fontsize=9)
    return save_figure(figure, stem)
