"""Whole folders: each is written under a hidden name, brought to the disk, and only then gets its own name.

A run's folder and a cache are locked by who works in them; there `atomic_folder` writes one folder of theirs, and
`recover` tidies what a killed process left. The output of any other command is a `new_folder`, which does all of this.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from sharelora.support.errors import UserError
from sharelora.support.files import make_folder, name_file, remove, require_writable, sync, vanishing
from sharelora.support.lock import FILE as LOCK
from sharelora.support.lock import Lock, elsewhere

# Hidden names beside a folder's own: what is being replaced, what is about to be deleted, and, with eight random
# characters, what is being written.
_REPLACED, _GOING = "old", "gone"
_HIDDEN = re.compile(rf"\.(?P<name>.+)\.(?P<kind>[a-z0-9_]{{8}}|{_REPLACED}|{_GOING})")
# In a new folder: all of it, before it has its names.
UNFINISHED = ".unfinished"
# What is in an empty folder all the same: the lock, and what some file systems keep at their root.
_NOTHING = (LOCK, "lost+found")


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Say in one line why something cannot be written; safetensors' error of a full disk is none of Python's.

    Args:
        path: what the block writes, and nothing else.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    from safetensors import SafetensorError  # commands that only print load this module too

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path}: {reason}; free space or choose another folder") from error


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a hidden folder that becomes `path` if the block succeeds and vanishes if it does not.

    An existing folder at `path` is replaced, after the new one is complete. The caller keeps other processes out.

    Args:
        path: of the folder. Whatever the system refuses the block is taken for an error of writing.

    Raises:
        UserError: the folder cannot be written.
    """
    path = Path(path)
    with vanishing(path.parent):
        require_writable(path.parent)
        hidden = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            with writing(path):
                yield hidden
                hidden.chmod(0o755)
                _sync_all(hidden)
                _replace(hidden, path)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)


def _sync_all(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        if path.is_file() or path.is_dir():
            sync(path)


def _replace(new: Path, path: Path) -> None:
    old = path.with_name(f".{path.name}.{_REPLACED}")
    if path.exists():
        path.rename(old)
    new.rename(path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def discard(path: Path) -> None:
    """Delete a folder under another name, as half of it must not look like the whole."""
    going = path.with_name(f".{path.name}.{_GOING}")
    remove(going)
    path.rename(going)
    with suppress(OSError):  # what cannot be deleted now is tidied by the next process
        remove(going)


def recover(folder: Path, written: Collection[str]) -> None:
    """Tidy what a killed process left half done: put back what it was replacing, remove what it was writing.

    Args:
        folder: which no other process is using.
        written: names, or patterns of names, of all that is written there; other files are left alone.
    """
    for path in sorted(folder.glob(".*")):
        match = _HIDDEN.fullmatch(path.name)
        if match is None or not any(fnmatchcase(match["name"], pattern) for pattern in written):
            continue
        target = folder / match["name"]
        if match["kind"] == _REPLACED and not target.exists():
            path.rename(target)
        else:
            remove(path)


def made_once(folder: Path, complete: Callable[[], bool], make: Callable[[Path], None]) -> Path:
    """Return a folder of a cache, making it first if it is not complete; other processes wait and then find it.

    Args:
        folder: its name says what is in it.
        complete: whether it is there.
        make: writes it into the folder that it is given.
    """
    from filelock import FileLock  # loads asyncio, which help on flags need not wait for

    if not complete():
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            recover(folder.parent, [folder.name])
            if not complete():
                with atomic_folder(folder) as hidden:
                    make(hidden)
    return folder


@contextmanager
def new_folder(path: str | Path, last: str) -> Iterator[Path]:
    """Claim a new folder, and give a hidden one inside it whose files move into it if the block succeeds.

    It is made and locked before the block, which may take long. An empty one that exists stays the folder that it is: a
    link, the root of a disk, one with permissions of its own. What comes into it meanwhile is never replaced, and what
    a killed process left is removed by the next one; if the block fails, nothing is left.

    Args:
        path: of a folder that does not exist yet, or is empty.
        last: name of the file without which the folder is nothing to its readers; it comes after all others.

    Raises:
        UserError: something is in it already, now or after the block; another process writes it; or it cannot be
            written.
    """
    path = Path(path)
    hidden = path / UNFINISHED
    with vanishing(path), Lock() as lock:
        with writing(path):
            if not _left_here(path):
                _require_empty(path)
            make_folder(path)
            lock.take(path)
            if lock.sure:
                _roll_back(path, last)
            _require_empty(path)
            hidden.mkdir()
        try:
            yield hidden
            with writing(path):
                _publish(hidden, path, last)
        except OSError as error:  # with the file's name: it may be one that was read
            raise UserError(f"cannot write {path}: {error}; free space or choose another folder") from error
        finally:
            with suppress(OSError):
                _roll_back(path, last)


def _left_here(path: Path) -> bool:
    """Whether a process of this machine has left something in a folder; what that is shows when it is locked.

    Raises:
        UserError: one of another machine has left its work.
    """
    hidden, owner = path / UNFINISHED, elsewhere(path)
    if owner and hidden.is_dir():
        raise UserError(
            f"{path} holds the unfinished work of {owner}, another machine; need a new folder; choose another name, or "
            f"remove {hidden} if that process has ended"
        )
    return not owner and (hidden.is_dir() or (path / LOCK).is_file())


def _require_empty(path: Path) -> None:
    """Refuse a folder with something in it, and what is no folder."""
    if not path.exists():
        return
    found = sorted({entry.name for entry in path.iterdir()} - {*_NOTHING}) if path.is_dir() else ["a file"]
    if found:
        raise UserError(
            f"{path} exists already and is not an empty folder (found {found[0]}); need a new one; choose another name"
        )


def _publish(hidden: Path, path: Path, last: str) -> None:
    _sync_all(hidden)
    sync(path)  # without the hidden folder nobody could tell later which names were not finished
    came = sorted({entry.name for entry in path.iterdir()} - {*_NOTHING, UNFINISHED})
    if came:
        raise UserError(
            f"found {came[0]}, which came into {path} while it was being written; need a folder of its own; choose "
            "another name"
        )
    for entry in sorted(hidden.iterdir()):
        if entry.name != last:
            name_file(entry, path / entry.name)
    sync(path)
    name_file(hidden / last, path / last)
    sync(path)


def _roll_back(path: Path, last: str) -> None:
    """Remove what is not finished: the hidden folder, and what has got its name already, unless that is all of it."""
    hidden = path / UNFINISHED
    if not hidden.is_dir():
        return
    marker, mine = path / last, hidden / last
    if not marker.exists() or (mine.exists() and not marker.samefile(mine)):
        for entry in hidden.iterdir():
            named = path / entry.name
            if named.is_file() and named.samefile(entry):
                named.unlink()
    shutil.rmtree(hidden, ignore_errors=True)
