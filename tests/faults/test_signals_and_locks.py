"""Signals end a run in good order, and two runs never share a folder."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from faulty import KILLED, Worker, last_step, nothing_damaged, same_end

STEP, EVALUATION = "on_step_begin", "on_prediction_step"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "where", "count", "step"),
    [
        (signal.SIGTERM, 0, STEP, 5, 5),
        (signal.SIGINT, 130, STEP, 8, 8),  # an evaluation is due after this update
        (signal.SIGTERM, 0, EVALUATION, 6, 8),  # two batches an evaluation: before training, and after 4 and 8
    ],
)
def test_a_signal_stops_after_the_update_and_nothing_changes(
    worker: Worker, words: list[str], whole: Path, tmp_path: Path, number: int, code: int, where: str, count: int,
    step: int,
) -> None:  # fmt: skip
    command = [*words, "--output_dir", str(tmp_path / "out")]
    ended = worker.run(command, signals=[where, count, [number]])
    assert ended.code == code, ended.log
    assert f"stopped by {signal.Signals(number).name}; {tmp_path}/out/checkpoint-{step} has everything" in ended.log
    assert "start the same command again" in ended.log
    again = worker.run(command)
    assert again.code == 0 and f"resuming from {tmp_path}/out/checkpoint-{step}" in again.log, again.log
    same_end(whole, tmp_path / "out")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_ends_within_thirty_seconds_though_an_evaluation_is_due(
    worker: Worker, words: list[str], tmp_path: Path, number: int
) -> None:
    """One that takes three minutes: it is done when the run goes on."""
    more = ["--output_dir", str(tmp_path / "out"), "--eval_on_start", "false"]
    pid = worker.start([*words, *more], signals=[STEP, 4, [number]], long_evaluation=180)
    while f"{signal.Signals(number).name}: stopping" not in worker.log(pid):
        time.sleep(0.05)
    asked = time.monotonic()
    ended = worker.wait(pid)
    assert time.monotonic() - asked < 30
    assert ended.code == (0 if number == signal.SIGTERM else 130) and "checkpoint-4 has everything" in ended.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once_without_damage(
    worker: Worker, words: list[str], tmp_path: Path, number: int
) -> None:
    out = tmp_path / "out"
    ended = worker.run([*words, "--output_dir", str(out)], signals=[STEP, 6, [number, number]])
    assert ended.code == 128 + number and "stopping at once" in ended.log
    assert last_step(out) == 4
    nothing_damaged(out)


def test_a_warning_of_the_cluster_saves_and_goes_on(
    worker: Worker, words: list[str], whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    more = ["--output_dir", str(out), "--save_total_limit", "20"]
    ended = worker.run([*words, *more], signals=[STEP, 5, [signal.SIGUSR1]])
    assert ended.code == 0 and "SIGUSR1: saved checkpoint-5" in ended.log, ended.log
    assert (out / "checkpoint-5").is_dir()
    same_end(whole, out)


def test_two_runs_do_not_share_a_folder(worker: Worker, words: list[str], whole: Path, tmp_path: Path) -> None:
    """The second one is refused; when the first one dies, the next one takes over."""
    out = tmp_path / "out"
    command = [*words, "--output_dir", str(out)]
    first = worker.start(command, sleep_at=4)
    while last_step(out) < 2:
        time.sleep(0.1)
    assert json.loads((out / ".lock").read_text())["pid"] == first
    second = worker.run(command)
    assert second.code == 2 and f"is in use by process {first} on" in second.log and "another folder" in second.log
    os.kill(first, signal.SIGKILL)
    assert worker.wait(first).code == KILLED
    third = worker.run(command)
    assert third.code == 0 and "resuming from" in third.log, third.log
    same_end(whole, out)
