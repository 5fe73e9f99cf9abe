"""Signals to a run: stop after the update in progress with a checkpoint, or save a checkpoint and continue."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from sharelora.support.errors import INTERRUPTED, Stopped

# Exit codes: a scheduler that ends a job expects no error; a person who interrupts expects the shell's code.
CODES = {signal.SIGTERM: 0, signal.SIGINT: INTERRUPTED}
_LAUNCHED = "TORCHELASTIC_RUN_ID"  # set by torchrun and `accelerate launch` for their processes
ECHO = 5.0  # seconds in which a launcher passes a signal on
NOTHING_LOST = "nothing is lost: start the same command again"


@dataclass
class Requests:
    """What signals have asked for so far.

    Attributes:
        stop: the signal that asked to stop, by number; 0 if none did.
        save: a checkpoint is wanted now.
        at_once: stop in the middle of what is being done, because it changes nothing that is kept.
    """

    stop: int = 0
    save: bool = False
    at_once: bool = False

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Stop in the middle of the block instead of waiting for its end.

        Raises:
            Stopped: in the block, or at its start if that was asked for before.
        """
        self.at_once = True
        try:
            if self.stop:
                raise stopped(self.stop)
            yield
        finally:
            self.at_once = False


def stopped(number: int, what: str = NOTHING_LOST) -> Stopped:
    """Return the exception that ends a run because a signal asked for it.

    Args:
        number: of the signal.
        what: what was saved, and how to continue.
    """
    return Stopped(f"stopped by {signal.Signals(number).name}; {what}", CODES[signal.Signals(number)])


@contextlib.contextmanager
def listening() -> Iterator[Requests]:
    """Note SIGTERM, SIGINT and SIGUSR1 during the block; afterwards the handlers are those from before.

    The first SIGTERM or SIGINT is only noted; the second one ends the process at once. That does no damage: files are
    written whole or not at all. A scheduler signals a launcher and its processes, and the launcher passes the signal on
    to the same processes: a repetition within a few seconds is then the same signal.
    """
    requests, process = Requests(), os.getpid()
    echo = ECHO if _LAUNCHED in os.environ else 0.0
    first = 0.0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if os.getpid() != process:  # a data loader's worker, which the first process ends
            return
        if requests.stop and time.monotonic() - first < echo:
            return
        if requests.stop:
            _say("stopping at once; the last checkpoint is whole")
            os._exit(128 + number)
        requests.stop, first = number, time.monotonic()
        if requests.at_once:
            raise stopped(number)
        _say(f"{signal.Signals(number).name}: stopping after this update and a checkpoint; once more stops at once")

    def save(number: int, frame: FrameType | None) -> None:
        requests.save = True

    with _handled({signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGUSR1: save}):
        yield requests


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Let SIGTERM end the block cleanly where nothing is being trained, as SIGINT does by itself.

    The exit code is the usual one: nothing was saved, and a caller must not take it for a success.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise Stopped(f"stopped by {signal.Signals(number).name}; {NOTHING_LOST}", 128 + number)

    with _handled({signal.SIGTERM: end, signal.SIGUSR1: lambda number, frame: _say("nothing is being trained")}):
        yield


@contextlib.contextmanager
def _handled(handlers: dict[signal.Signals, signal.Handlers | object]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may change them
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    # Not by print: the signal may have come in the middle of one.
    with contextlib.suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{text}\n".encode())
