"""Following a sandbox from outside: what it says, for how long, and its end."""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from sharelora.sandbox.isolation import Limits

logger = logging.getLogger(__name__)

READY = b"ready\n"
# A sandbox stands in a few hundredths of a second; a busy machine may take a thousand times as long.
START_SECONDS = 30.0
# How long the last process of a killed sandbox may take to vanish.
END_SECONDS = 10.0
KEPT_OUTPUT = 2000


@dataclass(frozen=True)
class Said:
    """What a sandbox has said until its end.

    Args:
        status: a name of `STATUSES`; None if the sandbox did not start, and no line of the program was run.
        detail: one line.
    """

    status: str | None
    detail: str


class Follower:
    """Reads the verdict and counts the output of one sandbox, and ends it.

    Nothing is kept but the verdict and the end of the output, however much is printed.

    Args:
        process: just started, with pipes for the verdict (standard output) and for what is printed (standard error).
        limits: of the program.
    """

    def __init__(self, process: subprocess.Popen[bytes], limits: Limits) -> None:
        self.process, self.limits = process, limits
        self.verdict = self.printed = b""
        self.size = 0
        self.deadline = time.monotonic() + START_SECONDS
        self.selector = selectors.DefaultSelector()
        for pipe, take in ((process.stdout, self._take_verdict), (process.stderr, self._take_output)):
            assert pipe is not None
            self.selector.register(pipe, selectors.EVENT_READ, take)

    def follow(self) -> Said:
        """Wait for the verdict, or for a reason not to wait longer; then kill all that is left, and say what was."""
        try:
            in_time = self._read(lambda: self._has_verdict() or self.size > self.limits.output_bytes)
        finally:
            self._end()
        return self._said(in_time)

    def _read(self, enough: Callable[[], bool]) -> bool:
        """Read until it is enough or all pipes are closed; return whether that was before the deadline."""
        while self.selector.get_map() and not enough():
            left = self.deadline - time.monotonic()
            if left <= 0:
                return False
            for key, _ in self.selector.select(left):
                data = os.read(key.fd, 65536)
                key.data(data)
                if not data:
                    self.selector.unregister(key.fileobj)
        return True

    def _take_verdict(self, data: bytes) -> None:
        started = self.verdict.startswith(READY)
        self.verdict += data
        if not started and self.verdict.startswith(READY):
            self.deadline = time.monotonic() + self.limits.seconds

    def _take_output(self, data: bytes) -> None:
        self.size += len(data)
        self.printed = (self.printed + data)[-KEPT_OUTPUT:]

    def _has_verdict(self) -> bool:
        return self.verdict.count(b"\n") == 2

    def _end(self) -> None:
        """Kill the sandbox with all that is in it, and see it gone: its pipes close with its last process."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.deadline = time.monotonic() + END_SECONDS
        if not self._read(lambda: False):
            logger.error("a process of a sandbox is still there %.0f s after it was killed", END_SECONDS)
        self.selector.close()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()

    def _said(self, in_time: bool) -> Said:
        if not self.verdict.startswith(READY):
            lines = self.printed.decode(errors="replace").strip().splitlines() or ["it said nothing"]
            return Said(None, lines[-1] if in_time else f"not there after {START_SECONDS:.0f} s")
        if self.size > self.limits.output_bytes:
            return Said("output", f"more than {self.limits.output_bytes:,} bytes printed")
        if self._has_verdict():
            status, detail = json.loads(self.verdict.splitlines()[1])
            return Said(status, detail)
        if not in_time:
            return Said("timeout", f"more than {self.limits.seconds:g} s of wall clock")
        return Said("killed", "the sandbox ended without a verdict")
