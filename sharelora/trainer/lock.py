"""One run at a time in an output folder."""

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

logger = logging.getLogger(__name__)

FILE = ".lock"
_held: set[int] = set()


def _let_go() -> None:
    # A data loader's worker outlives a run that is killed by some seconds, and must not keep the next one out.
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


class Lock:
    """Keeps other runs out of a folder, from `take` until the end of the block that it is used in.

    The system's own lock is what counts; it goes with the process that has it, however that ends. The file only says
    who it is.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._path is not None:
            with contextlib.suppress(OSError):  # the folder may have become read-only; the file alone locks nothing
                self._path.unlink()
            _held.discard(self._descriptor)
            os.close(self._descriptor)
            self._path = None

    def take(self, folder: Path) -> None:
        """Keep other runs out of a folder that exists.

        Raises:
            UserError: another run has it.
        """
        self._descriptor = _locked(folder / FILE)
        self._path = folder / FILE
        _held.add(self._descriptor)


def _locked(path: Path) -> int:
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
            logger.warning("%s cannot be locked (%s); see to it that one run at a time uses it", path, error.strerror)
        if _same(path, descriptor):
            break
        os.close(descriptor)  # its last holder has just removed it
    _sign(descriptor)
    return descriptor


def _same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}).encode())


def _owner(path: Path) -> str:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"
