"""Runs that are killed anywhere lose nothing but the steps since their last checkpoint."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from faulty import KILLED, Worker, last_step, nothing_damaged, same_end

# A checkpoint touches the output folder some dozens of times, so that these are the first three or four.
TOUCHES = 120


def fault(draw: random.Random, out: Path) -> dict[str, Any]:
    """Where a run is to be killed: while it writes, trains or evaluates; nothing means at a random time."""
    kind = draw.choice(["file", "file", "file", "step", "evaluation", "time"])
    if kind == "file":
        return {"file_event": [str(out), draw.randint(1, TOUCHES)]}
    return {kind: draw.randint(1, 6)} if kind != "time" else {}


def killed(worker: Worker, words: list[str], draw: random.Random, out: Path) -> bool:
    """Start a run and kill it; False if it was done before."""
    chosen = fault(draw, out)
    pid = worker.start(words, **chosen)
    if not chosen:
        time.sleep(draw.uniform(0.0, 3.0))
        os.kill(pid, signal.SIGKILL)
    ended = worker.wait(pid)
    assert ended.code in (KILLED, 0), ended.log
    return ended.code == KILLED


def kill_often(worker: Worker, words: list[str], whole: Path, tmp_path: Path, seed: int, kills: int) -> None:
    draw, runs, done = random.Random(seed), 0, 0
    while done < kills:
        out = tmp_path / str(runs)
        command, before = [*words, "--output_dir", str(out)], 0
        for _ in range(5):
            if not killed(worker, command, draw, out):
                break
            done += 1
            nothing_damaged(out)
            assert last_step(out) >= before, "a checkpoint was lost"
            before = last_step(out)
        ended = worker.run(command)
        assert ended.code == 0, ended.log
        expected = f"resuming from {out}/checkpoint-{before}" if before else "step 0/14"
        assert expected in ended.log or "nothing is trained again" in ended.log
        assert not [path.name for path in out.iterdir() if path.name.startswith(".")], "something was left behind"
        same_end(whole, out)
        runs += 1


@pytest.mark.slow
def test_ten_kills_lose_nothing(worker: Worker, words: list[str], whole: Path, tmp_path: Path) -> None:
    kill_often(worker, words, whole, tmp_path, seed=1, kills=10)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_kills_lose_nothing(worker: Worker, words: list[str], whole: Path, tmp_path: Path) -> None:
    kill_often(worker, words, whole, tmp_path, seed=2, kills=100)
