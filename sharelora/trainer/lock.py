"""The lock of an output folder: one run at a time writes into it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

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
    """Keeps other runs out of a folder, from `take` until the end of the `with` block.

    The lock is the operating system's, and ends with the process that holds it, however that ends. What the file says
    is only for people: who holds it.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._descriptor = -1

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
            UserError: another run uses it.
        """
        self._descriptor = _open_locked(folder / FILE)
        self._path = folder / FILE
        _held.add(self._descriptor)


def _open_locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise UserError(
                f"{path.parent} is in use by {_owner(path)}; need a folder that no other run writes into; wait for it, "
                "or choose another --output_dir"
            ) from error
        except OSError as error:
            logger.warning("%s cannot be locked (%s); make sure that one run at a time uses it", path, error.strerror)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                break
        os.close(descriptor)  # its last holder has just removed the file, so that this lock keeps nobody out
    now = datetime.now(UTC).isoformat(timespec="seconds")
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}).encode())
    return descriptor


def _owner(path: Path) -> str:
    try:
        owner = read_json(path, {"pid": int, "host": NAME, "since": NAME})
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except UserError:
        return "another run"
