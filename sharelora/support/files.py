"""Atomic files: written completely or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sharelora.support.errors import UserError
from sharelora.support.reading import open_file
from sharelora.support.secrets import hidden, hide


def _sync_folder(folder: Path) -> None:
    # A rename is durable only once the folder that holds the name is on disk too.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file atomically: temporary name in the same folder, fsync, rename.

    Raises:
        UserError: the folder cannot be written or the disk is full; nothing is left behind.
    """
    path = Path(path)
    temporary = None
    try:
        with vanishing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as handle:
                    temporary = Path(handle.name)
                    handle.write(data)
                    handle.flush()
                    os.fsync(handle.fileno())
                temporary.chmod(0o644)
                temporary.replace(path)
            except OSError:
                if temporary is not None:
                    temporary.unlink(missing_ok=True)
                raise
            _sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; free space or choose another folder") from error


def write_text(path: str | Path, text: str) -> None:
    """Write text atomically, as UTF-8, without secrets."""
    write_bytes(path, hide(text).encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, atomically and without secrets."""
    write_bytes(path, (json.dumps(hidden(value), indent=2, ensure_ascii=False) + "\n").encode("utf-8"))


def write_json_lines(path: str | Path, rows: Iterable[Any]) -> None:
    """Write one value a line as JSON, atomically and without secrets."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in hidden(list(rows)))
    write_bytes(path, "".join(lines).encode("utf-8"))


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal text.

    Raises:
        UserError: it is missing, not readable, or no regular file.
    """
    with open_file(path) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def require_writable(folder: str | Path) -> Path:
    """Create a folder if needed and prove that a file can be written there, before any long work starts.

    Raises:
        UserError: it cannot be created or written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"output folder {folder} cannot be written: {error.strerror}; choose another with --output_dir"
        ) from error
    return folder


@contextmanager
def vanishing(folder: str | Path, *traces: str) -> Iterator[None]:
    """Remove a folder, and those above it, if they did not exist before the block and hold nothing after it.

    A command that is refused, or only checks, so leaves nothing behind.

    Args:
        folder: where the block may write.
        traces: names of files that mean nothing without others.
    """
    folder = Path(folder)
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    new = {name for name in traces if not (folder / name).exists()}
    try:
        yield
    finally:
        with suppress(OSError):  # gone, or no folder
            if {path.name for path in folder.iterdir()} <= new:
                for name in new:
                    (folder / name).unlink(missing_ok=True)
        for path in absent:
            with suppress(OSError):  # never made, or something is in it
                path.rmdir()


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; of a link only the link, wherever it leads."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `path` if the block succeeds and vanishes if it does not.

    An existing folder at `path` is replaced only after the new one is complete.

    Raises:
        UserError: the folder cannot be written.
    """
    path = Path(path)
    with vanishing(path.parent):
        require_writable(path.parent)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            yield temporary
            temporary.chmod(0o755)
            _replace_folder(temporary, path)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}; free space or choose another") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(new: Path, path: Path) -> None:
    for file in new.rglob("*"):
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
    for folder in (*(path for path in new.rglob("*") if path.is_dir()), new):
        _sync_folder(folder)
    old = path.with_name(f".{path.name}.old")
    if path.exists():
        path.rename(old)
    new.rename(path)
    _sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)
