"""Checkpoints as folders: whole or absent, verified, rotated, found, locked."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sharelora.support.errors import UserError
from sharelora.support.folders import recover
from sharelora.support.lock import Lock
from sharelora.trainer.checkpoints import checkpoints, damage, find, new_checkpoint, rotate
from sharelora.trainer.exact_state import random_state, set_random_state
from sharelora.trainer.serialization import load_state, save_state
from sharelora.training.output import clear


def make(folder: Path, *steps: int) -> list[Path]:
    """Write checkpoints with a file and a file in a folder."""
    for step in steps:
        with new_checkpoint(folder, step) as aside:
            (aside / "weights").write_bytes(bytes([step]) * 100)
            (aside / "part").mkdir()
            (aside / "part" / "more").write_text("text")
    return [folder / f"checkpoint-{step}" for step in steps]


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_a_checkpoint_is_there_when_the_block_has_succeeded(tmp_path: Path) -> None:
    with new_checkpoint(tmp_path, 3) as aside:
        (aside / "weights").write_text("x")
        assert checkpoints(tmp_path) == []
    assert damage(tmp_path / "checkpoint-3") is None
    with pytest.raises(RuntimeError), new_checkpoint(tmp_path, 4) as aside:
        (aside / "weights").write_text("x")
        raise RuntimeError
    assert names(checkpoints(tmp_path)) == ["checkpoint-3"] and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("weights", b"", "weights is truncated or altered"),
        ("weights", b"\1" * 99 + b"\0", "weights is altered"),
        ("weights", None, "weights is missing"),
        ("part/more", b"test", "part/more is altered"),
        ("manifest.json", None, "manifest.json is missing"),
        ("manifest.json", b"{", "manifest.json is damaged"),
        ("manifest.json", b"{}", "manifest.json is of an unknown kind"),
        ("manifest.json", b'{"schema": 1, "files": {"../x": {}}}', "../x is outside of it"),
        ("manifest.json", b'{"schema": 1, "files": {"/etc/passwd": {}}}', "/etc/passwd is outside of it"),
    ],
)
def test_damage_is_found_and_the_checkpoint_before_is_used(
    tmp_path: Path, file: str, content: bytes | None, problem: str
) -> None:
    first, second = make(tmp_path, 9, 10)
    second = second.rename(tmp_path / "checkpoint-11")
    first = first.rename(tmp_path / "checkpoint-1")
    assert find(tmp_path).good == second
    (second / file).unlink()
    if content is not None:
        (second / file).write_bytes(content)
    found = find(tmp_path)
    assert found.good == first and [path for path, _ in found.damaged] == [second]
    assert found.damaged[0][1].startswith(problem)


def test_a_checkpoint_that_cannot_be_read_back_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, 1)
    monkeypatch.setattr("sharelora.trainer.checkpoints.damage", lambda path: "weights is altered")
    with pytest.raises(UserError, match=r"checkpoint-2 does not read as it was written: weights is altered; check"):
        make(tmp_path, 2)
    assert (tmp_path / "checkpoint-1").is_dir()


def test_everything_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a power cut could leave a whole name with empty files."""
    synced: set[int] = set()
    fsync, rename = os.fsync, Path.rename

    def noted(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def checked(self: Path, target: Path) -> Path:
        assert {path.stat().st_ino for path in (self, *self.rglob("*"))} <= synced
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "rename", checked)
    make(tmp_path, 1)
    assert tmp_path.stat().st_ino in synced  # the name itself


def test_rotation_counts_by_step_and_spares_the_best_and_the_newest(tmp_path: Path) -> None:
    made = make(tmp_path, 8, 9, 10, 11, 100)
    rotate(tmp_path, made[3], None)
    rotate(tmp_path, made[3], 0)
    assert len(checkpoints(tmp_path)) == 5
    # The hundredth was left by an earlier run, after the one that is gone on from.
    rotate(tmp_path, made[3], 2, [made[0]])
    assert names(checkpoints(tmp_path)) == ["checkpoint-8", "checkpoint-11", "checkpoint-100"]
    rotate(tmp_path, made[3], 1)
    assert names(checkpoints(tmp_path)) == ["checkpoint-11", "checkpoint-100"]


def test_what_was_half_done_is_tidied_and_nothing_else(tmp_path: Path) -> None:
    kept, replaced = make(tmp_path, 1, 2)
    replaced.rename(tmp_path / ".checkpoint-2.old")  # killed between the two renames
    (tmp_path / ".checkpoint-1.old").mkdir()
    (tmp_path / ".checkpoint-0.gone").mkdir()
    (tmp_path / ".checkpoint-3.ab12cd_x").mkdir()
    (tmp_path / ".result.json.ab12cd_x").write_text("{")
    own = [tmp_path / ".gitignore", tmp_path / ".notes.old", tmp_path / ".checkpoint-5"]
    for path in own:
        path.write_text("mine")
    recover(tmp_path, ("checkpoint-*", "result*.json"))
    assert set(tmp_path.iterdir()) == {kept, replaced, *own} and damage(replaced) is None


def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    with Lock() as first:
        first.take(tmp_path)
        owner = json.loads((tmp_path / ".lock").read_text())
        with Lock() as second, pytest.raises(UserError, match=f"in use by process {owner['pid']} on .*another folder"):
            second.take(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".lock").write_text("left by a process that died")
    with Lock() as third:
        third.take(tmp_path)


def test_what_a_killed_run_has_forked_does_not_keep_the_next_one_out(tmp_path: Path) -> None:
    """The workers of its data loader live on for a while."""
    said, say = os.pipe()
    run = os.fork()
    if run == 0:
        Lock().take(tmp_path)
        worker = os.fork()
        if worker == 0:
            time.sleep(30)
            os._exit(0)
        os.write(say, f"{worker}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)
    worker = int(os.read(said, 20))
    os.waitpid(run, 0)
    try:
        with Lock() as lock:
            lock.take(tmp_path)
    finally:
        os.kill(worker, signal.SIGKILL)


def test_nested_states_come_back_bit_by_bit(tmp_path: Path) -> None:
    state = {
        "state": {0: {"step": torch.tensor(3.0), "avg": torch.randn(2, 3), "code": torch.arange(5, dtype=torch.uint8)}},
        "groups": [{"betas": (0.9, 0.1 + 0.2), "name": None, "on": True, "lr": float("inf")}],
        "empty": {}, "scalar": np.float64(1.5), "bits": torch.tensor([1.0], dtype=torch.bfloat16),
    }  # fmt: skip
    save_state(tmp_path / "x", state)
    found = load_state(tmp_path / "x")
    assert torch.equal(found["state"][0].pop("avg"), state["state"][0].pop("avg"))
    assert str(found) == str({**state, "scalar": 1.5})
    save_state(tmp_path / "y", found)
    save_state(tmp_path / "z", load_state(tmp_path / "y"))
    assert (tmp_path / "y").read_bytes() == (tmp_path / "z").read_bytes()


def test_what_would_need_a_pickle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found \w*Path in the state"):
        save_state(tmp_path / "x", {"where": tmp_path})
    assert not (tmp_path / "x").exists()


def test_random_numbers_go_on_after_a_state_is_put_back(tmp_path: Path) -> None:
    save_state(tmp_path / "x", random_state())
    expected = [random.random(), float(np.random.rand()), float(torch.rand(()))]
    set_random_state(load_state(tmp_path / "x"))
    assert [random.random(), float(np.random.rand()), float(torch.rand(()))] == expected


def test_links_are_removed_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    """Nothing that a run deletes is outside of its folder."""
    (made,) = make(tmp_path / "elsewhere", 1)
    out = tmp_path / "out"
    out.mkdir()
    (newest,) = make(out, 9)
    names = ("checkpoint-1", "checkpoint-2", ".checkpoint-3.old", "adapter_model")
    for name in names:
        (out / name).symlink_to(made)
    rotate(out, newest, 1)
    (out / ".checkpoint-9.gone").symlink_to(made)
    recover(out, ("checkpoint-*",))
    clear(out)
    assert not [path for path in out.iterdir() if path.name not in names] and damage(made) is None
    assert not [name for name in names if (out / name).is_symlink()]
