"""What is in a checkpoint: size and checksum of every file, so that damage is found before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from sharelora.errors import UserError
from sharelora.files import read_json, sha256, write_json

FILE = "manifest.json"
SCHEMA = 1


def write_manifest(folder: Path, step: int) -> None:
    """Describe every file of a folder; this is the last file that is written into a checkpoint.

    Args:
        folder: the checkpoint.
        step: updates so far.
    """
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / FILE
    }
    write_json(folder / FILE, {"schema": SCHEMA, "step": step, "files": files})


def damage(folder: Path) -> str | None:
    """Compare a checkpoint with its manifest.

    Args:
        folder: the checkpoint.

    Returns:
        What is wrong with it, in a few words; None if it is whole.
    """
    if not (folder / FILE).is_file():
        return f"{FILE} is missing"
    try:
        found = read_json(folder / FILE)
    except UserError:
        return f"{FILE} is damaged"
    files = found.get("files") if isinstance(found, dict) and found.get("schema") == SCHEMA else None
    if not isinstance(files, dict) or not files:
        return f"{FILE} is of an unknown kind"
    problems = (_wrong(folder, name, facts) for name, facts in files.items())
    return next((problem for problem in problems if problem), None)


def _wrong(folder: Path, name: str, facts: Mapping[str, Any]) -> str | None:
    path, parts = folder / name, PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or path.is_symlink():
        return f"{name} lies outside of it"
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    if not isinstance(facts, dict) or size != facts.get("bytes"):
        return f"{name} is truncated or altered ({size} bytes)"
    return None if sha256(path) == facts.get("sha256") else f"{name} is altered (its checksum differs)"
