"""What the sandbox's tests share: where it can be made at all, and which of its processes are still there."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from sharelora.sandbox import Limits, require_sandbox, run_program

MEBIBYTE = 2**20
# Little of everything. The size of a file is a mark as well: it stands in the command line of every sandbox of these
# tests, and tests that run at the same time in another process have another.
SMALL = Limits(
    seconds=15,
    cpu_seconds=1,
    memory_bytes=256 * MEBIBYTE,
    processes=16,
    file_bytes=16 * MEBIBYTE + 4096 * (os.getpid() % 4096),
    output_bytes=100_000,
)
_TRY = "bwrap --unshare-all --ro-bind / / true"


def skip_without_bubblewrap() -> None:
    """Skip a test where namespaces cannot be made; fail where they can, but the sandbox cannot."""
    if shutil.which("bwrap") is None:
        pytest.skip("NOT TESTED: the sandbox, as bubblewrap is not installed (apt install bubblewrap)")
    done = subprocess.run(_TRY.split(), capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"NOT TESTED: the sandbox, as bubblewrap makes no namespaces here: {done.stderr.strip()}")
    require_sandbox()


def require_isolation(path: Path) -> None:
    """Stop everything unless a file that is there cannot be seen from inside: what follows deletes all that it sees."""
    source = f"import os\ndef seen(): return os.path.exists({str(path)!r})"
    found = run_program(source, "assert seen() is False", SMALL)
    if not path.exists() or not found.passed:
        pytest.exit(f"the sandbox does not hide {path}: {found}; hostile programs must not be run", returncode=3)


def left_processes(seconds: float = 2.0) -> list[str]:
    """Command lines of sandboxes of these tests that are still there after a while."""
    until = time.monotonic() + seconds
    while (found := _marked()) and time.monotonic() < until:
        time.sleep(0.01)
    return found


def _marked() -> list[str]:
    mark, found = str(SMALL.file_bytes), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        found += [" ".join(words)] if mark in words else []
    return found
