"""Atomic files: written completely or not at all."""

from __future__ import annotations

import errno
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


def sync(path: Path) -> None:
    """Bring a file to the disk, or the names in a folder: a rename lasts only once the folder itself is there too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, unless they exist, and bring their names to the disk."""
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in absent:
        sync(path.parent)


def name_file(file: Path, path: Path) -> None:
    """Give a file a name in the same file system that nothing has yet, whoever else is writing there.

    Raises:
        FileExistsError: something has it.
    """
    try:
        os.link(file, path)
    except FileExistsError:
        raise
    except OSError as error:  # there are no hard links, of folders nowhere
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        file.rename(path)


def write_bytes(path: str | Path, data: bytes, replace: bool = True) -> None:
    """Write a file atomically: temporary name in the same folder, fsync, rename.

    Args:
        path: the file.
        data: all that it will hold.
        replace: False refuses to replace a file.

    Raises:
        UserError: the folder cannot be written or the disk is full; nothing is left behind.
    """
    path = Path(path)
    temporary = None
    try:
        with vanishing(path.parent):
            make_folder(path.parent)
            try:
                with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as handle:
                    temporary = Path(handle.name)
                    handle.write(data)
                    handle.flush()
                    os.fsync(handle.fileno())
                temporary.chmod(0o644)
                if replace:
                    temporary.replace(path)
                else:
                    name_file(temporary, path)
            finally:
                if temporary is not None:
                    temporary.unlink(missing_ok=True)
            sync(path.parent)
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
        make_folder(folder)
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
