"""Control groups: where they can be made a sandbox is limited as a whole; elsewhere nothing changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sandboxes import MEBIBYTE, SMALL, left_processes, skip_without_bubblewrap

from sharelora.sandbox import cgroups, run_program
from sharelora.sandbox.cgroups import Group


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in the place of the machine's groups, in which this process is in `a/b`."""
    (tmp_path / "groups" / "a" / "b").mkdir(parents=True)
    (tmp_path / "own").write_text("4:memory:/x\n0::/a/b\n")
    monkeypatch.setattr(cgroups, "ROOT", tmp_path / "groups")
    monkeypatch.setattr(cgroups, "OWN", tmp_path / "own")
    cgroups.find_parent.cache_clear()
    yield tmp_path / "groups"
    cgroups.find_parent.cache_clear()


@pytest.mark.parametrize("own", ["4:memory:/x\n", "0::/../../..\n", "0::/a/b\n", ""])
def test_without_a_group_that_can_be_used_there_is_none(tree: Path, own: str) -> None:
    (tree.parent / "own").write_text(own)
    (tree / "a" / "cgroup.subtree_control").write_text("cpu memory\n")
    assert cgroups.find_parent() is None
    with cgroups.group(SMALL) as group:
        assert group.words(["x"]) == ["x"] and not group.out_of_memory()


def test_a_group_that_cannot_be_joined_is_none(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "a" / "cgroup.subtree_control").write_text("cpu memory pids\n")
    monkeypatch.setattr(cgroups, "JOIN", ("/bin/sh", "-c", "exit 1"))
    assert cgroups.find_parent() is None and [path.name for path in (tree / "a").iterdir() if path.is_dir()] == ["b"]


def test_the_nearest_group_with_both_controllers_is_taken(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "JOIN", ("/bin/sh", "-c", "true"))
    (tree / "cgroup.subtree_control").write_text("cpu memory pids\n")
    (tree / f"{cgroups.PREFIX}left").mkdir()
    assert cgroups.find_parent() == tree and list(tree.glob(f"{cgroups.PREFIX}*")) == []


def test_the_end_by_the_kernel_is_told(tmp_path: Path) -> None:
    for count in (0, 1):
        (tmp_path / "memory.events").write_text(f"low 0\nmax 9\noom 1\noom_kill {count}\n")
        assert Group(tmp_path).out_of_memory() is bool(count)


# Empty files: no limit of a process counts what the kernel needs for them.
FILES = """
import itertools, os
for number in itertools.count():
    os.close(os.open("x" * 200 + str(number), os.O_CREAT))
"""


@pytest.mark.slow
def test_a_group_limits_the_kernel_s_memory_too() -> None:
    skip_without_bubblewrap()
    parent = cgroups.find_parent()
    if parent is None:
        pytest.skip("NOT TESTED: limits of control groups, as none can be made here")
    limits = replace(SMALL, memory_bytes=64 * MEBIBYTE, cpu_seconds=60, seconds=60)
    found = run_program(FILES, None, limits)
    assert (found.status, found.detail) == ("memory", "all of its processes and files together took more than allowed")
    assert run_program("x = 1", None, limits).passed
    assert list(parent.glob(f"{cgroups.PREFIX}*")) == [] and left_processes() == []
