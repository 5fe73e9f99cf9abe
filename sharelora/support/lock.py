"""The lock of an output folder: one process at a time writes into it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from sharelora.support.errors import UserError
from sharelora.support.reading import NAME, read_json

logger = logging.getLogger(__name__)

FILE = ".lock"
_held: set[int] = set()


def _close_in_child() -> None:
    # A data loader's worker outlives a killed run by some seconds, and must not keep the next one out.
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_close_in_child)


class Lock:
    """Keeps other processes out of a folder, from `take` until the end of the `with` block.

    The lock is the operating system's, and ends with the process that holds it, however that ends. What the file says
    is only for people: who holds it.

    Attributes:
        sure: whether the system keeps others out; some file systems cannot.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._descriptor = -1
        self.sure = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._path is not None:
            with contextlib.suppress(OSError):  # the folder may be read-only by now; a file that is left locks nothing
                self._path.unlink()
            _held.discard(self._descriptor)
            os.close(self._descriptor)
            self._path = None

    def take(self, folder: Path) -> None:
        """Lock a folder that exists.

        Raises:
            UserError: another process uses it.
        """
        self._descriptor, self.sure = _open_locked(folder / FILE)
        self._path = folder / FILE
        _held.add(self._descriptor)


def _open_locked(path: Path) -> tuple[int, bool]:
    """Return the descriptor of a file that is locked, and whether the system could lock it."""
    while True:
        descriptor, sure = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise UserError(
                f"{path.parent} is in use by {_said(_owner(path))}; need a folder that no other process writes into; "
                "wait for it, or choose another folder"
            ) from error
        except OSError as error:
            sure = False
            logger.warning("%s cannot be locked (%s); make sure that one run at a time uses it", path, error.strerror)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                break
        os.close(descriptor)  # its last holder has just removed the file, so that this lock keeps nobody out
    now = datetime.now(UTC).isoformat(timespec="seconds")
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}).encode())
    return descriptor, sure


def elsewhere(folder: Path) -> str | None:
    """Return which process on another machine holds a folder, or held it when it was killed; None if there is none.

    Not every network file system tells one machine of the locks of another.
    """
    owner = _owner(folder / FILE)
    return _said(owner) if owner.get("host", socket.gethostname()) != socket.gethostname() else None


def _owner(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path, {"pid": int, "host": NAME, "since": NAME}))
    except UserError:
        return {}


def _said(owner: dict[str, Any]) -> str:
    return f"process {owner['pid']} on {owner['host']} since {owner['since']}" if owner else "another process"
