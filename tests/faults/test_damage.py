"""Damaged checkpoints, a full disk, a folder that cannot be written, a clock that jumps."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from faulty import KILLED, Worker, last_step, nothing_damaged, same_end

from sharelora.trainer.checkpoints import checkpoints


@pytest.fixture(scope="session")
def broken(worker: Worker, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its thirteenth update; it has the checkpoints 10 and 12."""
    out = tmp_path_factory.mktemp("broken") / "out"
    assert worker.run([*words, "--output_dir", str(out)], step=13).code == KILLED
    assert [path.name for path in checkpoints(out)] == ["checkpoint-10", "checkpoint-12"]
    return out


@pytest.fixture
def out(broken: Path, tmp_path: Path) -> Path:
    """A copy of that run's folder."""
    return Path(shutil.copytree(broken, tmp_path / "out"))


def flip(file: Path) -> None:
    """Change one bit in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    worker: Worker, words: list[str], whole: Path, out: Path
) -> None:
    flip(out / "checkpoint-12" / "training_state.safetensors")
    ended = worker.run([*words, "--output_dir", str(out)])
    assert ended.code == 0, ended.log
    assert f"{out}/checkpoint-12 is incomplete or damaged: training_state.safetensors is altered" in ended.log
    assert f"resuming from {out}/checkpoint-10" in ended.log
    same_end(whole, out)


def test_without_a_good_checkpoint_nothing_is_thrown_away(worker: Worker, words: list[str], out: Path) -> None:
    for path in checkpoints(out):
        file = path / "adapter_model.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
    ended = worker.run([*words, "--output_dir", str(out)])
    assert ended.code == 2 and "has no good one" in ended.log and "adapter_model.safetensors is truncated" in ended.log
    assert len(checkpoints(out)) == 2


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "training_state.safetensors"])
def test_a_full_disk_costs_no_checkpoint(worker: Worker, words: list[str], whole: Path, out: Path, file: str) -> None:
    """The system refuses to write the fourteenth; the twelfth stays, and the run ends well once there is space."""
    command = [*words, "--output_dir", str(out)]
    ended = worker.run(command, largest_file=(out / "checkpoint-12" / file).stat().st_size - 100)
    assert ended.code == 2 and "cannot write" in ended.log and "free space" in ended.log, ended.log
    assert last_step(out) == 12 and not list(out.glob(".checkpoint*"))
    assert worker.run(command).code == 0
    same_end(whole, out)


@pytest.mark.slow
def test_a_folder_that_becomes_read_only_costs_no_checkpoint(
    worker: Worker, words: list[str], whole: Path, out: Path
) -> None:
    command = [*words, "--output_dir", str(out)]
    ended = worker.run(command, read_only_at=[str(out), 2])
    out.chmod(0o755)
    assert ended.code == 2 and "cannot be written" in ended.log, ended.log
    assert last_step(out) == 12
    assert worker.run(command).code == 0
    same_end(whole, out)


def test_a_read_only_folder_is_refused_before_anything_is_loaded(
    worker: Worker, words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    ended = worker.run([*words, "--output_dir", str(tmp_path / "out")], no_capabilities=True)
    assert ended.code == 2 and "cannot be written" in ended.log and "trainable" not in ended.log


def test_a_clock_that_jumps_changes_nothing(worker: Worker, words: list[str], whole: Path, out: Path) -> None:
    """Neither what is deleted nor what is gone on from depends on file times."""
    for age, path in enumerate(checkpoints(out)):
        os.utime(path, (10**9 - age, 10**9 - age))
    ended = worker.run([*words, "--output_dir", str(out)], clock=True)
    assert ended.code == 0 and f"resuming from {out}/checkpoint-12" in ended.log, ended.log
    assert [path.name for path in checkpoints(out)] == ["checkpoint-12", "checkpoint-14"]
    nothing_damaged(out)
    same_end(whole, out)
