"""The program as the tests see it: functions that send their arguments over and wait for the result."""

from __future__ import annotations

import builtins
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from sharelora.sandbox.inside.wire import decode, encode, receive, send

# How long a process whose line is cut may take to end by itself.
PATIENCE = 1.0
# What the program has raised -> the status; any other is an error.
STATUS = {"MemoryError": "memory", "TooLong": "output"}


class Lost(BaseException):
    """The program can answer no more. Not an `Exception`, so that no test goes on as if nothing had happened."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class Program:
    """The program as the tests see it.

    Args:
        process: number of the program's process.
        requests: line to it.
        replies: line from it.
        cpu_seconds: its limit, which tells one end by a signal from another.

    Attributes:
        calls: how often a test has called a function.
        raised: what the program has raised last, and `blame`, what that means for it.
        lost: why it can answer no more; None while it can.
    """

    def __init__(self, process: int, requests: int, replies: int, cpu_seconds: int) -> None:
        self.process, self.requests, self.replies, self.cpu_seconds = process, requests, replies, cpu_seconds
        self.calls = 0
        self.raised: Exception | None = None
        self.blame = ("", "")
        self.lost: Lost | None = None

    def receive(self) -> Any:
        """Wait for what the program says.

        Raises:
            Lost: it has ended, or says something that only a program says which writes on the line by itself.
        """
        if self.lost is None:
            try:
                return receive(self.replies)
            except (EOFError, ConnectionError):
                self.lost = self._how_it_ended()
            except Exception as error:
                self.lost = _refused(error)
        raise self.lost

    def result(self) -> Any:
        """Wait for the end of what was asked for; return its result, or raise what the program has raised."""
        reply = self.receive()
        try:
            if "raised" in reply:
                kind, text, line = reply["raised"]
                where = "" if line is None else f" (line {int(line)} of the program)"
                self.blame = STATUS.get(kind, "error"), f"{kind}: {text}{where}"
                self.raised = _as_exception(str(kind), str(text))
            else:
                return decode(reply["value"])
        except Exception as error:
            self.lost = _refused(error)
            raise self.lost from None
        raise self.raised

    def ask(self, what: str, *arguments: Any) -> Any:
        """Have the program do something; see `worker.ANSWERS`."""
        request = [what, encode(list(arguments))]
        try:
            send(self.requests, request)
        except ConnectionError:
            pass  # it has ended; how, is found out with the reply
        return self.result()

    def function(self, name: str) -> Callable[..., Any]:
        """A stand-in for one of the program's functions."""

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            return self.ask("call", name, arguments, options)

        call.__name__ = call.__qualname__ = name
        return call

    def _how_it_ended(self) -> Lost:
        until = time.monotonic() + PATIENCE
        while (found := os.wait4(self.process, os.WNOHANG))[0] == 0 and time.monotonic() < until:
            time.sleep(0.001)
        if found[0] == 0:
            return Lost("cheated", "the program has closed its line to the checker and goes on")
        code, usage = os.waitstatus_to_exitcode(found[1]), found[2]
        if code >= 0:
            return Lost("exited", f"the program ended itself with exit code {code}")
        if code == -signal.SIGXCPU or usage.ru_utime + usage.ru_stime >= self.cpu_seconds:
            return Lost("timeout", f"more than {self.cpu_seconds} s of processor time")
        return Lost("killed", f"ended by signal {-code}: {signal.strsignal(-code) or 'without a name'}")


def _refused(error: Exception) -> Lost:
    """What to say of a reply that cannot be read: the sandbox's own code makes none such, unless it is very large."""
    if isinstance(error, MemoryError):
        return Lost("memory", "too little memory to read what the program returned")
    return Lost("cheated", "found something on the line to the checker that is no reply")


def _as_exception(kind: str, text: str) -> Exception:
    """What the program has raised: of the same type if Python has it, so that a test can expect it."""
    found = getattr(builtins, kind, None)
    # A `StopIteration` would quietly end `all(map(function, inputs))` in a test.
    if not (isinstance(found, type) and issubclass(found, Exception)) or found is StopIteration:
        found = RuntimeError
    try:
        return found(text)
    except TypeError:  # some, as UnicodeDecodeError, are made of more than a text
        return RuntimeError(text)
