"""The checkpoints of a run's folder: each is whole or absent, proves it by a manifest, and old ones are rotated out."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sharelora.support.errors import UserError
from sharelora.support.files import sha256, write_json
from sharelora.support.folders import atomic_folder, discard
from sharelora.support.reading import read_json

FILE, SCHEMA = "manifest.json", 1
INPUTS = "inputs.json"  # fingerprints of what the run reads
_NAME = re.compile(r"checkpoint-(\d+)")


def step_of(path: Path) -> int:
    """Return how many updates a checkpoint has seen, by its name."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else 0


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder by step, whole or damaged; clocks and file times play no part."""
    paths = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(paths, key=step_of)


@dataclass(frozen=True)
class Found:
    """The result of a search for a checkpoint.

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
    """Yield a hidden folder that becomes the checkpoint of a step, with its manifest, if the block succeeds.

    Args:
        folder: the run's folder.
        step: updates so far.

    Raises:
        UserError: it cannot be written, or does not read as it was written; earlier checkpoints stay.
    """
    path = folder / f"checkpoint-{step}"
    with atomic_folder(path) as unfinished:
        yield unfinished
        write_manifest(unfinished, step)
    problem = damage(path)
    if problem is not None:
        raise UserError(f"{path} does not read as it was written: {problem}; check the disk; earlier checkpoints stay")


def best_checkpoint(folder: Path, state: Any) -> Path | None:
    """Return the best checkpoint so far where the folder is now; None if there is none, or it was deleted.

    Args:
        folder: the run's folder.
        state: the Trainer's.
    """
    step = state.best_global_step
    path = folder / f"checkpoint-{step}"
    # The checkpoint of this update may be the best one; it is just being written.
    return path if step and (path.is_dir() or step == state.global_step) else None


def require_whole(best: Path) -> None:
    """Check the best checkpoint of a run that loads it at the end.

    Raises:
        UserError: it is damaged or gone.
    """
    problem = damage(best)
    if problem is not None:
        raise UserError(
            f"{best}, the best checkpoint, is incomplete or damaged: {problem}; copy it from a backup, or take the "
            "last weights with --load_best_model_at_end false --resume_anyway"
        )


def rotate(folder: Path, newest: Path, limit: int | None, keep: Collection[Path] = ()) -> None:
    """Delete the oldest checkpoints beyond a limit, once the newest one is verified.

    Args:
        folder: the run's folder.
        newest: the one that has just been written; it stays.
        limit: how many to keep; None or less than 1 keeps all.
        keep: others that stay, such as the best one.
    """
    if limit is None or limit < 1:
        return
    # What comes after the newest was left by an earlier run and will be replaced; it must not push out a good one.
    paths = [path for path in checkpoints(folder) if step_of(path) <= step_of(newest)]
    spare = [path for path in paths if path != newest and path not in keep]
    for path in spare[: max(0, len(paths) - limit)]:
        discard(path)


def write_manifest(folder: Path, step: int) -> None:
    """Note size and checksum of every file of a folder; this is the last file that is written into a checkpoint.

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
        manifest = read_json(folder / FILE)
    except UserError:
        return f"{FILE} is damaged"
    files = manifest.get("files") if isinstance(manifest, dict) and manifest.get("schema") == SCHEMA else None
    if not isinstance(files, dict) or not files:
        return f"{FILE} is of an unknown kind"
    problems = (_wrong(folder, name, facts) for name, facts in files.items())
    return next((problem for problem in problems if problem), None)


def _wrong(folder: Path, name: str, facts: Mapping[str, Any]) -> str | None:
    path, parts = folder / name, PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or path.is_symlink():
        return f"{name} is outside of it"
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    if not isinstance(facts, dict) or size != facts.get("bytes"):
        return f"{name} is truncated or altered ({size} bytes)"
    try:
        return None if sha256(path) == facts.get("sha256") else f"{name} is altered (its checksum differs)"
    except UserError as error:
        return str(error)
