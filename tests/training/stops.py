"""Runs that are stopped by a signal again and again."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sharelora.support.errors import Stopped
from sharelora.trainer.callbacks import Progress
from sharelora.trainer.checkpoints import checkpoints

STATE = "training_state.safetensors"
# What a clock, or what else the process has done, decides.
MEASURED = ("second", "runtime", "memory")


def stop_at(patch: pytest.MonkeyPatch, where: str, count: int) -> None:
    """Send SIGTERM at the Nth call of a callback: `on_step_begin` or `on_prediction_step`."""
    left = [count]

    def ask(self: Any, *args: Any, **kwargs: Any) -> None:
        left[0] -= 1
        # After training nobody listens, and the signal would end the tests.
        if left[0] == 0 and callable(signal.getsignal(signal.SIGTERM)):
            signal.raise_signal(signal.SIGTERM)

    patch.setattr(Progress, where, ask, raising=False)


def stop_often(run: Callable[[], Any], patch: pytest.MonkeyPatch, where: str, most: int) -> int:
    """Run until it ends, with a SIGTERM in every start; returns how often it was stopped.

    In training it comes in the first update. In evaluations it comes one batch later from start to start, or the one
    before the first update would never end.
    """
    for stops in range(most):
        with patch.context() as inner:
            stop_at(inner, where, 1 if where == "on_step_begin" else stops + 1)
            try:
                run()
                return stops
            except Stopped as stop:
                assert stop.code == 0 and "start the same command again" in str(stop)
    raise AssertionError(f"{most} starts were not enough")


def log_of(out: Path) -> list[dict[str, Any]]:
    """The log in the last checkpoint, without what was measured by a clock."""
    lines = json.loads((checkpoints(out)[-1] / "trainer_state.json").read_text())["log_history"]
    return [
        {name: value for name, value in line.items() if not any(word in name for word in MEASURED)} for line in lines
    ]


def same_state(first: Path, second: Path) -> None:
    """The last checkpoints of two runs have the same optimizer, schedule, random numbers and log."""
    last = checkpoints(first)[-1].name
    assert checkpoints(second)[-1].name == last
    assert (first / last / STATE).read_bytes() == (second / last / STATE).read_bytes()
    assert log_of(first) == log_of(second) and len(log_of(first)) > 3
