"""Packages that a benchmark reads or needs and the project does not: kept in a folder, never installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sharelora.support.errors import UserError


def download(requirements: list[str], folder: Path, *flags: str) -> None:
    """Fetch the files of packages, without those that they require.

    Raises:
        UserError: the package index is out of reach or has no such package.
    """
    _pip("download", "--no-deps", *flags, "--dest", str(folder), *requirements)


def unpack(requirements: list[str], folder: Path) -> None:
    """Put packages, without those that they require, into a folder that can stand on Python's path.

    Raises:
        UserError: the package index is out of reach or has no such package.
    """
    _pip("install", "--no-deps", "--target", str(folder), *requirements)


def _pip(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "--quiet", *words], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"pip {words[0]} failed: {reason}; need the package index; connect to it")
