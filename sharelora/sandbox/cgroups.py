"""Control groups (cgroup v2): limits on a sandbox as a whole, the kernel's own memory for it included.

They are used where this process may make groups with limits on memory and on processes: as root outside of containers,
in a systemd user session, or in a group that was delegated to it. Elsewhere the limits of single processes stay.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sharelora.sandbox.isolation import Limits

logger = logging.getLogger(__name__)

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
CONTROLLERS = {"memory", "pids"}
PREFIX = "sharelora-sandbox-"
# bubblewrap's two processes, and the checker.
OWN_PROCESSES = 3
END_SECONDS, PAUSE = 10.0, 0.005
# Joins the group `$0` and becomes the command: bubblewrap and all its processes are then in it from the beginning.
JOIN = ("/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"')


@dataclass(frozen=True)
class Group:
    """One sandbox's group; without a folder there is none, and nothing is done.

    Args:
        folder: of the group.
    """

    folder: Path | None

    def words(self, command: list[str]) -> list[str]:
        """The command, started in the group."""
        return command if self.folder is None else [*JOIN, str(self.folder), *command]

    def out_of_memory(self) -> bool:
        """Whether the kernel has ended a process of the group, as its memory was used up."""
        return self.folder is not None and "oom_kill 0" not in (self.folder / "memory.events").read_text().splitlines()


@contextlib.contextmanager
def group(limits: Limits) -> Iterator[Group]:
    """A group for one sandbox, and its end: what is left in it is killed.

    Args:
        limits: of the program. The group may use the memory of program and checker and that of its files.
    """
    parent = find_parent()
    if parent is None:
        yield Group(None)
        return
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    try:
        wanted = {
            "memory.max": 2 * limits.memory_bytes + limits.file_bytes,
            "memory.swap.max": 0,
            "memory.oom.group": 1,
            "pids.max": limits.processes + OWN_PROCESSES,
        }
        for name, value in wanted.items():
            if (folder / name).exists():  # there is no limit on swap where there is no swap
                (folder / name).write_text(str(value))
        yield Group(folder)
    finally:
        _remove(folder)


@functools.cache
def find_parent() -> Path | None:
    """The nearest group above this process, or its own, in which groups with limits can be made; None without one."""
    try:
        own = next(line for line in OWN.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    place = ROOT / own.removeprefix("0::").strip("/")
    found = next((folder for folder in (place, *place.parents) if folder.is_relative_to(ROOT) and _works(folder)), None)
    # What killed scorers have left; a group with processes in it cannot be removed.
    for left in () if found is None else found.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            left.rmdir()
    return found


def _works(parent: Path) -> bool:
    """Whether a group with limits can be made here and joined; what is allowed depends on the groups in between."""
    try:
        if not set((parent / "cgroup.subtree_control").read_text().split()) >= CONTROLLERS:
            return False
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    except OSError:
        return False
    try:
        return subprocess.run([*JOIN, folder, "true"], capture_output=True).returncode == 0
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    until = time.monotonic() + END_SECONDS
    with contextlib.suppress(OSError), open(folder / "cgroup.kill", "r+") as file:  # not before Linux 5.14
        file.write("1")
    while True:
        try:
            folder.rmdir()
            return
        except OSError as error:
            if time.monotonic() > until:
                logger.error("the group %s of a sandbox stays: %s", folder, error)
                return
            time.sleep(PAUSE)
