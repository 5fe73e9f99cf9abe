"""The output folder of a command: claimed at the start, whole or absent, nothing replaced, nothing of the dead left."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands_at_fault import at_file_event, drop_capabilities

from sharelora.support.errors import UserError
from sharelora.support.files import write_bytes
from sharelora.support.folders import UNFINISHED, made_once, new_folder
from sharelora.support.lock import FILE

FILES = {"config.json": b"{}", "a.safetensors": b"a" * 100, "z.safetensors": b"z" * 100}


def write(path: Path, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Write a folder as commands do."""
    with new_folder(path, "config.json") as folder:
        for name, data in FILES.items():
            write_bytes(folder / name, data)
        meanwhile()


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def in_a_child(action: Callable[[], object]) -> int:
    """Run something in a process of its own; return how it ended: 0, 1 after an error, 9 if it was killed."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status := os.waitpid(pid, 0)[1]) else os.WEXITSTATUS(status)


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on file systems of memory cards and of some networks."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize("links", [True, False])
def test_a_folder_is_there_when_the_block_has_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        without_links(monkeypatch)
    out = tmp_path / "new" / "out"

    def nothing_yet() -> None:
        assert {path.name for path in out.iterdir()} == {FILE, UNFINISHED}

    write(out, nothing_yet)
    assert contents(out) == FILES
    with pytest.raises(RuntimeError), new_folder(tmp_path / "deep" / "other", "config.json"):
        raise RuntimeError
    assert not (tmp_path / "deep").exists()


def test_an_empty_folder_stays_the_one_it_is(tmp_path: Path) -> None:
    """A link stays a link, and permissions of its own stay."""
    (tmp_path / "disk").mkdir(mode=0o750)
    (tmp_path / "disk" / "lost+found").mkdir()
    (tmp_path / "out").symlink_to("disk")
    before = (tmp_path / "disk").stat()
    write(tmp_path / "out")
    after = (tmp_path / "disk").stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode) and (tmp_path / "out").is_symlink()
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {*FILES, "lost+found"}
    (tmp_path / "nowhere").symlink_to("no such folder")
    with pytest.raises(UserError, match=r"cannot write .*nowhere: File exists"):
        write(tmp_path / "nowhere")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 256 kB."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", path]).returncode:
        pytest.skip("only an administrator can mount a disk")
    yield path
    subprocess.run(["umount", path], check=True)


def test_the_root_of_a_disk_is_written_into(disk: Path) -> None:
    write(disk)
    assert contents(disk) == FILES and os.path.ismount(disk)


def test_the_folder_above_need_not_be_writable(tmp_path: Path) -> None:
    out = tmp_path / "above" / "out"
    out.mkdir(parents=True)

    def work() -> None:
        drop_capabilities()
        out.parent.chmod(0o555)
        write(out)

    assert in_a_child(work) == 0
    out.parent.chmod(0o755)
    assert contents(out) == FILES


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("name", ["notes.txt", "config.json", "z.safetensors"])
def test_what_comes_into_the_folder_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, links: bool
) -> None:
    if not links:
        without_links(monkeypatch)
    out = tmp_path / "out"
    with pytest.raises(UserError, match=f"found {name}, which came into .*out while it was being written; need"):
        write(out, lambda: (out / name).write_bytes(b"mine"))
    assert contents(out) == {name: b"mine"}


@pytest.mark.parametrize("name", ["config.json", "z.safetensors"])
def test_what_comes_in_the_last_moment_stays_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    out, link = tmp_path / "out", os.link

    def late(source: Path, target: Path) -> None:
        if target.name == name:
            target.write_bytes(b"mine")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(UserError, match=r"cannot write .*out: File exists"):
        write(out)
    assert contents(out) == {name: b"mine"}


def test_a_file_that_comes_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "x", b"first", replace=False)
    for links in (True, False):
        if not links:
            without_links(monkeypatch)
        with pytest.raises(UserError, match="File exists"):
            write_bytes(tmp_path / "x", b"second", replace=False)
    write_bytes(tmp_path / "y", b"second", replace=False)
    assert contents(tmp_path) == {"x": b"first", "y": b"second"}


def test_of_two_writers_the_second_one_is_refused_at_the_start(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def second() -> None:
        with pytest.raises(UserError, match=f"out is in use by process {os.getpid()} on .*; need .*another folder"):
            write(out, lambda: pytest.fail("it began"))

    write(out, second)
    assert contents(out) == FILES
    with pytest.raises(UserError, match=r"exists already and is not an empty folder \(found a.safetensors\)"):
        write(out)


@pytest.mark.slow
def test_after_a_kill_anywhere_the_same_command_ends_well(tmp_path: Path) -> None:
    """And leaves nothing else; if all was done, it is there already."""
    kills, whole = 0, 0
    for count in range(1, 100):
        out = tmp_path / str(count)

        def work(out: Path = out, count: int = count) -> None:
            at_file_event(str(out), count)
            write(out)

        ended = in_a_child(work)
        if ended == 0:
            break
        assert ended == 9
        kills += 1
        if (out / "config.json").exists():
            whole += 1
            with pytest.raises(UserError, match="exists already"):
                write(out)
        else:
            write(out)
        assert contents(out) == FILES
    assert kills > 15 and whole > 0


def killed(out: Path) -> None:
    """Leave what a killed writer leaves."""
    write_then_die = lambda: write(out, lambda: os.kill(os.getpid(), 9))  # noqa: E731
    assert in_a_child(write_then_die) == 9 and (out / UNFINISHED).is_dir()


def test_the_work_of_another_machine_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed(out)
    owner = json.loads((out / FILE).read_text()) | {"host": "far away"}
    (out / FILE).write_text(json.dumps(owner))
    before = sorted(out.rglob("*"))
    match = f"holds the unfinished work of process {owner['pid']} on far away .*; need a new folder; .*{UNFINISHED}"
    with pytest.raises(UserError, match=match):
        write(out)
    assert sorted(out.rglob("*")) == before


def test_without_locks_nothing_is_taken_for_the_work_of_the_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    out = tmp_path / "out"

    def second() -> None:
        with pytest.raises(UserError, match=rf"is not an empty folder \(found {UNFINISHED}\)"):
            write(out)

    write(out, second)
    assert contents(out) == FILES and "cannot be locked" in caplog.text


def test_a_cache_forgets_what_was_half_made(tmp_path: Path) -> None:
    folder = tmp_path / "model-1"
    half, other = tmp_path / ".model-1.ab12cd_x", tmp_path / ".model-2.ab12cd_x"
    half.mkdir()
    other.mkdir()
    made_once(folder, folder.is_dir, lambda hidden: write_bytes(hidden / "x", b"x"))
    made_once(folder, folder.is_dir, lambda hidden: pytest.fail("made twice"))
    assert contents(folder) == {"x": b"x"} and not half.exists() and other.exists()
