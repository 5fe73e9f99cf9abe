"""A process watched while it trains, window by window: memory, file handles, threads, the time of an update."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

import psutil
from transformers import TrainerCallback, TrainerState

from sharelora.support.files import read_json, write_json

FILE = "windows.json"


class Watch(TrainerCallback):
    """Record the state of this process after every window of updates.

    Args:
        file: a JSON list, one entry per window; a run that goes on from a checkpoint continues it.
        every: updates of a window.
    """

    def __init__(self, file: Path, every: int) -> None:
        self.file, self.every = file, every
        self.times: list[tuple[float, float]] = []
        self.windows: list[dict[str, Any]] = []
        self._mark = (0.0, 0.0)

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Keep the windows up to the checkpoint that the run goes on from."""
        before = read_json(self.file) if state.global_step and self.file.is_file() else []
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
    """Return the time, and the processor's time of this process, which other work on the machine hardly changes."""
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
