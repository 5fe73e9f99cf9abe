"""The supervisor of a sandbox, outside of it: reads the verdict, enforces time and output, and kills what is left."""

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
# A sandbox starts in a few hundredths of a second; a busy machine may take a thousand times as long.
START_SECONDS = 30.0
END_SECONDS = 10.0  # in which the last process of a killed sandbox must vanish
KEPT_OUTPUT = 2000  # bytes at its end


@dataclass(frozen=True)
class Verdict:
    """How a sandbox ended.

    Args:
        status: a name of `STATUSES`; None if the sandbox did not start, so that no line of the program was run.
        detail: one line.
    """

    status: str | None
    detail: str


class Supervisor:
    """Reads the verdict of one sandbox, counts its output, and ends it.

    However much is printed, only the end of it is kept.

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

    def watch(self) -> Verdict:
        """Wait for the verdict, or for a reason not to wait any longer; then kill what is left, and judge."""
        try:
            in_time = self._read(lambda: self._has_verdict() or self.size > self.limits.output_bytes)
        finally:
            self._end()
        return self._judge(in_time)

    def _read(self, enough: Callable[[], bool]) -> bool:
        """Read until enough was read or all pipes are closed; return whether that was before the deadline."""
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
        """Kill the sandbox with all that is in it, and wait: its pipes close when its last process is gone."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.deadline = time.monotonic() + END_SECONDS
        if not self._read(lambda: False):
            logger.error("a process of a sandbox is still alive %.0f s after it was killed", END_SECONDS)
        self.selector.close()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()

    def _judge(self, in_time: bool) -> Verdict:
        if not self.verdict.startswith(READY):
            lines = self.printed.decode(errors="replace").strip().splitlines() or ["it said nothing"]
            return Verdict(None, lines[-1] if in_time else f"not started after {START_SECONDS:.0f} s")
        if self.size > self.limits.output_bytes:
            return Verdict("output", f"more than {self.limits.output_bytes:,} bytes printed")
        if self._has_verdict():
            status, detail = json.loads(self.verdict.splitlines()[1])
            return Verdict(status, detail)
        if not in_time:
            return Verdict("timeout", f"more than {self.limits.seconds:g} s of wall clock")
        return Verdict("killed", "the sandbox ended without a verdict")
