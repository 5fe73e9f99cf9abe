"""The checkpoints of a run's folder: how one comes, how old ones go, and which one a run goes on from."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError

from sharelora.support.errors import UserError
from sharelora.support.files import atomic_folder, read_json, remove, sha256, write_json

_NAME = re.compile(r"checkpoint-(\d+)")
# What `support.files` calls things before they are whole, what it replaces, and what is about to be deleted here.
_REPLACED, _GOING = "old", "gone"
_UNFINISHED = re.compile(rf"\.(?P<name>.+)\.(?P<kind>[a-z0-9_]{{8}}|{_REPLACED}|{_GOING})")


def step_of(path: Path) -> int:
    """Return how many updates a checkpoint has seen, by its name."""
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else 0


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder by step, whole or damaged; clocks and file times play no part."""
    found = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


@dataclass(frozen=True)
class Found:
    """What a search for a checkpoint found.

    Attributes:
        good: the last whole checkpoint.
        damaged: checkpoints after it, last to first, with what is wrong.
    """

    good: Path | None = None
    damaged: tuple[tuple[Path, str], ...] = ()


def find(folder: Path) -> Found:
    """Return the last whole checkpoint, and the damaged ones that come after it."""
    damaged: list[tuple[Path, str]] = []
    for path in reversed(checkpoints(folder)):
        problem = damage(path)
        if problem is None:
            return Found(path, tuple(damaged))
        damaged.append((path, problem))
    return Found(None, tuple(damaged))


@contextlib.contextmanager
def new_checkpoint(folder: Path, step: int) -> Iterator[Path]:
    """Give a folder aside that becomes the checkpoint of a step, with its manifest, if the block succeeds.

    Args:
        folder: the run's folder.
        step: updates so far.

    Raises:
        UserError: it cannot be written, or does not read as it was written; earlier checkpoints stay.
    """
    path = folder / f"checkpoint-{step}"
    try:
        with atomic_folder(path) as aside:
            yield aside
            write_manifest(aside, step)
    except SafetensorError as error:
        raise UserError(
            f"cannot write {path}: {' '.join(str(error).split())}; free space, then start again: the run goes on from "
            "its last checkpoint"
        ) from error
    problem = damage(path)
    if problem is not None:
        raise UserError(f"{path} does not read as it was written: {problem}; check the disk; earlier checkpoints stay")


def rotate(folder: Path, newest: Path, limit: int | None, kept: Collection[Path] = ()) -> None:
    """Delete the oldest checkpoints beyond a limit; to be called once the newest one is verified.

    Args:
        folder: the run's folder.
        newest: the one that has just been written; it stays.
        limit: how many to keep; None or less than 1 keeps all.
        kept: others that stay, such as the best one.
    """
    if limit is None or limit < 1:
        return
    # What comes after the newest was left by an earlier run and will be replaced; it must not push out a good one.
    found = [path for path in checkpoints(folder) if step_of(path) <= step_of(newest)]
    spare = [path for path in found if path != newest and path not in kept]
    _remove(spare[: max(0, len(found) - limit)])


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        # Under another name first: half of a checkpoint must not look like one.
        going = path.with_name(f".{path.name}.{_GOING}")
        remove(going)
        path.rename(going)
        with contextlib.suppress(OSError):  # what cannot be deleted now is tidied by the next run
            remove(going)


def recover(folder: Path, written: Collection[str]) -> None:
    """Tidy what a run that was killed left half done: put back what it was replacing, remove what it was writing.

    Args:
        folder: the run's folder, which no other run is using.
        written: names, or patterns of names, of all that a run writes; other files are left alone.
    """
    for path in sorted(folder.glob(".*")):
        found = _UNFINISHED.fullmatch(path.name)
        if found is None or not any(fnmatchcase(found["name"], pattern) for pattern in written):
            continue
        target = folder / found["name"]
        if found["kind"] == _REPLACED and not target.exists():
            path.rename(target)
        else:
            remove(path)


# What is in a checkpoint: size and checksum of every file, so that damage is found before anything is loaded.


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
