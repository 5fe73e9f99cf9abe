"""The process in which the program runs: it executes the program, and calls its functions when the checker asks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from sharelora.sandbox.inside.confine import confine
from sharelora.sandbox.inside.wire import CannotBeSent, decode, encode, receive, send

FILE = "<program>"


def work(job: dict[str, Any], requests: int, replies: int) -> NoReturn:
    """Give up all rights, run the program, and answer the checker; never return.

    Args:
        job: the program's text and its limits; see `running.make_job`. The test is not in it: it is read later.
        requests: pipe from the checker.
        replies: pipe to the checker.
    """
    confine(job["limits"], bytes.fromhex(job["filter"]), (requests, replies))
    send(replies, "confined")
    # With a test the program is used like a module; alone it is a script.
    program = ModuleType("program" if job["tested"] else "__main__")
    sys.modules[program.__name__] = program
    for name in [name for name in sys.modules if name.startswith("sharelora")]:
        del sys.modules[name]
    _reply(replies, _attempt(_define, job["source"], program))
    while True:
        request, arguments = receive(requests)
        _reply(replies, _attempt(ANSWERS[request], program, *decode(arguments)))


def _define(source: str, program: ModuleType) -> None:
    exec(compile(source, FILE, "exec", dont_inherit=True), program.__dict__)


def _lookup(program: ModuleType, names: list[str]) -> dict[str, Any]:
    """Look names up in the program: None for something that can be called, else a list with the value."""
    values = {name: program.__dict__[name] for name in names if name in program.__dict__}
    return {name: None if callable(value) else [value] for name, value in values.items() if _can_be_sent(value)}


def _can_be_sent(value: Any) -> bool:
    try:
        encode(None if callable(value) else value)
    except CannotBeSent:
        return False
    return True


def _call(program: ModuleType, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return program.__dict__[name](*arguments, **options)


ANSWERS: dict[str, Callable[..., Any]] = {"lookup": _lookup, "call": _call}


def _attempt(action: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Return the form of the result, or of the exception: its type, its text, and the line of the program."""
    try:
        return {"value": encode(action(*arguments))}
    except BaseException as error:
        return {"raised": [type(error).__name__, _text(error), _line(error)]}


def _reply(replies: int, message: dict[str, Any]) -> None:
    """Send a reply, or why it cannot be sent: it may be too large for the memory that is left."""
    try:
        send(replies, message)
    except Exception as error:
        send(replies, {"raised": [type(error).__name__, _text(error), None]})


def _text(error: BaseException) -> str:
    try:
        return str(error.msg if isinstance(error, SyntaxError) else error)[:1000]
    except BaseException:
        return ""


def _line(error: BaseException) -> int | None:
    """The last line of the program itself that was running; of a syntax error, its own line."""
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == FILE else None
    trace = error.__traceback__
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == FILE else line
        trace = trace.tb_next
    return line
