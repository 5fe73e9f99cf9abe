"""The process that holds the test and the verdict. Nothing of the program ever runs in it.

It starts the program's process before it reads the test, so that the test is in no memory that the program can read.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
from types import CodeType, TracebackType
from typing import Any

from sharelora.sandbox.inside.confine import settle
from sharelora.sandbox.inside.program import Lost, Program
from sharelora.sandbox.inside.wire import read_exactly
from sharelora.sandbox.inside.worker import work

FILE = "<test>"
# What the program sends may be nested, but not so deep that reading it overflows the stack. More than `worker.DEPTH`.
DEPTH = 10_000

Verdict = tuple[str, str]  # a name of `STATUSES`, and a detail


def main() -> None:
    """Read a job, run it, and write two lines for the process outside: that the sandbox is ready, and the verdict."""
    verdict = os.dup(1)
    os.dup2(2, 1)
    job = json.loads(_part())
    settle(job["user"], job["limits"]["memory_bytes"])
    program = _start(job, verdict)
    try:
        program.receive()  # "confined"
    except Lost:
        sys.exit(1)  # it has printed why it is not
    os.write(verdict, b"ready\n")
    sys.setrecursionlimit(DEPTH)
    status, detail = judge(program, _part().decode() if job["tested"] else None)
    os.write(verdict, json.dumps([status, detail]).encode() + b"\n")


def _part() -> bytes:
    """The next part of the job, which comes over standard input."""
    return read_exactly(0, int.from_bytes(read_exactly(0, 8), "little"))


def _start(job: dict[str, Any], verdict: int) -> Program:
    (work_requests, requests), (replies, work_replies) = os.pipe(), os.pipe()
    process = os.fork()
    if process == 0:
        try:
            for descriptor in (verdict, requests, replies):
                os.close(descriptor)
            work(job, work_requests, work_replies)
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
        finally:
            # Whatever happens, the program's process must not continue as a second checker.
            os._exit(1)
    os.close(work_requests)
    os.close(work_replies)
    return Program(process, requests, replies, job["limits"]["cpu_seconds"])


def judge(program: Program, test: str | None) -> Verdict:
    """Run the program, then the test.

    Args:
        program: just started.
        test: Python; None if the program only has to run to its end.
    """
    try:
        program.result()
        if test is not None:
            _run(program, test)
    except Lost as lost:
        return lost.status, lost.detail
    except BaseException as error:
        return _blame(program, error, test or "")
    if program.lost is not None:
        return program.lost.status, program.lost.detail
    if test is not None and not program.calls:
        return "error", "the test has called nothing of the program"
    return "passed", ""


def _run(program: Program, test: str) -> None:
    code = compile(test, FILE, "exec", dont_inherit=True)
    namespace: dict[str, Any] = {"__name__": "test"}
    # Builtins are the checker's own: a program cannot replace them for the test.
    names = sorted(name for name in _names(code) if not hasattr(builtins, name))
    values = program.ask("lookup", names)
    # Only names that were asked for: the program may answer anything.
    for name in (name for name in names if name in values):
        if values[name] is None:
            namespace[name] = program.function(name)
        elif values[name]:
            namespace[name] = values[name][0]
        else:
            program.hidden.add(name)
    exec(code, namespace)


def _names(code: CodeType) -> set[str]:
    """Every global name that code may look up."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _blame(program: Program, error: BaseException, test: str) -> Verdict:
    """Tell an assertion of the test from an exception of the program and from one of the test."""
    if error is program.raised:
        return program.blame
    where = _line(error.__traceback__, test.split("\n"))
    if isinstance(error, AssertionError):
        return "failed", f"does not hold{where}"
    if isinstance(error, NameError) and error.name in program.hidden:
        return "unjudged", f"the test uses {error.name} of the program, which cannot be sent{where}"
    return "error", f"{type(error).__name__}: {error}{where}"


def _line(trace: TracebackType | None, lines: list[str]) -> str:
    """The last line of the test that was being run; empty if no line was."""
    number = 0
    while trace is not None:
        number = trace.tb_lineno if trace.tb_frame.f_code.co_filename == FILE else number
        trace = trace.tb_next
    return f", line {number} of the test: {lines[number - 1].strip()}" if 0 < number <= len(lines) else ""
