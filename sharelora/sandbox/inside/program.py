"""The program as the test sees it: functions that send their arguments to its process and wait for the result."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from sharelora.sandbox.inside.wire import CannotBeSent, decode, encode, receive, send

PATIENCE = 1.0  # seconds in which a process that has closed its pipe may end by itself
# The exception that the program raised -> the status; any other is an error.
STATUS = {"MemoryError": "memory", "TooLong": "output"}
# What a test can expect. `SILENT` ones would silently end `all(map(function, inputs))` in a test.
EXPECTED, SILENT = (Exception, SystemExit), (StopIteration, StopAsyncIteration)


class Lost(BaseException):
    """The program can no longer answer. Not an `Exception`, or a test could catch it and continue."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class Program:
    """The program as the test sees it.

    Args:
        process: id of the program's process.
        requests: pipe to it.
        replies: pipe from it.
        cpu_seconds: its limit, which distinguishes one end by a signal from another.

    Attributes:
        calls: how often the test has called a function.
        raised: the last exception of the program, and `blame`, the status and detail that it means.
        hidden: names of the program whose values cannot be sent.
        lost: why it can no longer answer; None while it can.
    """

    def __init__(self, process: int, requests: int, replies: int, cpu_seconds: int) -> None:
        self.process, self.requests, self.replies, self.cpu_seconds = process, requests, replies, cpu_seconds
        self.calls = 0
        self.raised: BaseException | None = None
        self.blame = ("", "")
        self.hidden: set[str] = set()
        self.lost: Lost | None = None

    def receive(self) -> Any:
        """Wait for the next message of the program.

        Raises:
            Lost: it has ended, or the message is one that only a program can have written by itself.
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
        """Wait for the reply to a request; return its value, or raise what the program has raised.

        Raises:
            Lost: see `receive`; or the result cannot be sent, so that the test cannot judge it.
        """
        reply = self.receive()
        try:
            if "value" in reply:
                return decode(reply["value"])
            if "unsent" in reply:
                raise Lost("unjudged", f"the program returned {reply['unsent']}")
            kinds, text, line, arguments = reply["raised"]
            where = "" if line is None else f" (line {int(line)} of the program)"
            kind = str(kinds[0]).rpartition(".")[2]
            self.blame = STATUS.get(kind, "error"), f"{kind}: {text}{where}"
            self.raised = _as_exception([str(kind) for kind in kinds], decode(arguments), str(text))
        except Lost as lost:
            self.lost = lost
            raise
        except Exception as error:
            self.lost = _refused(error)
            raise self.lost from None
        raise self.raised

    def ask(self, what: str, *arguments: Any) -> Any:
        """Have the program do something; see `worker.ANSWERS`."""
        try:
            send(self.requests, [what, encode(list(arguments))])
        except (CannotBeSent, RecursionError) as error:
            self.lost = self.lost or Lost("unjudged", f"the test passes {error}")
        except ConnectionError:
            pass  # it has ended; waiting for the reply finds out how
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
        while (ended := os.wait4(self.process, os.WNOHANG))[0] == 0 and time.monotonic() < until:
            time.sleep(0.001)
        if ended[0] == 0:
            return Lost("cheated", "the program has closed its line to the checker and goes on")
        code, usage = os.waitstatus_to_exitcode(ended[1]), ended[2]
        if code >= 0:
            return Lost("exited", f"the program ended itself with exit code {code}")
        if code == -signal.SIGXCPU or usage.ru_utime + usage.ru_stime >= self.cpu_seconds:
            return Lost("timeout", f"more than {self.cpu_seconds} s of processor time")
        return Lost("killed", f"ended by signal {-code}: {signal.strsignal(-code) or 'without a name'}")


def _refused(error: Exception) -> Lost:
    """Judge a reply that cannot be read: the sandbox's own code sends no such reply, unless it is very large."""
    if isinstance(error, MemoryError):
        return Lost("memory", "too little memory to read what the program returned")
    return Lost("cheated", "found something on the line to the checker that is not a reply")


def _as_exception(kinds: list[str], arguments: list[Any], text: str) -> BaseException:
    """Build the exception of the program: of the first of its classes that a test can name, so that it can expect it.

    Those are builtins, and classes of modules that the test has imported.
    """
    for module, _, name in (kind.rpartition(".") for kind in kinds):
        exception = getattr(sys.modules.get(module), name, None)
        if isinstance(exception, type) and issubclass(exception, EXPECTED) and not issubclass(exception, SILENT):
            for make in (exception, functools.partial(exception.__new__, exception)):
                try:
                    return make(*arguments)
                except Exception:  # it needs other arguments than it keeps
                    continue
    return RuntimeError(text)
