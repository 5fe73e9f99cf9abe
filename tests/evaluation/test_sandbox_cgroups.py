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
    assert cgroups.find_parent() == tree


def test_the_end_by_the_kernel_is_told(tmp_path: Path) -> None:
    for count in (0, 1):
        (tmp_path / "memory.events").write_text(f"low 0\nmax 9\noom 1\noom_kill {count}\n")
        assert Group(tmp_path).out_of_memory() is bool(count)


# Pages far from each other: each needs two tables of pages, which no limit of a process counts.
SCATTERED = """
import ctypes
kernel = ctypes.CDLL(None)
kernel.mmap.restype, kernel.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 4
def scatter(most):
    for number in range(1, most):
        at = kernel.mmap(number << 30, 4096, 3, 0x100022, -1, 0)
        if at is not None and at == number << 30:
            ctypes.memset(at, 1, 1)
    return most
"""


@pytest.mark.slow
def test_a_group_limits_the_kernel_s_memory_too() -> None:
    skip_without_bubblewrap()
    parent = cgroups.find_parent()
    if parent is None:
        pytest.skip("NOT TESTED: limits of control groups, as none can be made here")
    limits = replace(SMALL, memory_bytes=64 * MEBIBYTE, cpu_seconds=20, seconds=60)
    few, many = (run_program(SCATTERED, f"assert scatter({most}) == {most}", limits) for most in (100, 60_000))
    assert few.passed and many.status == "memory", (few, many)
    assert list(parent.glob(f"{cgroups.PREFIX}*")) == [] and left_processes() == []
