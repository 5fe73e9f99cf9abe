"""The process in which the program runs: it defines what the program defines, and calls it when the checker asks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from sharelora.sandbox.inside.confine import confine
from sharelora.sandbox.inside.wire import CannotBeSent, decode, encode, receive, send

FILE = "<program>"


def work(job: dict[str, Any], requests: int, replies: int) -> NoReturn:
    """Give up all rights, run the program, answer the checker; never return.

    Args:
        job: the program's text and its limits; see `job.py`. The tests are not in it: they are still to be read.
        requests: line from the checker.
        replies: line to the checker.
    """
    confine(job["limits"], bytes.fromhex(job["filter"]), (requests, replies))
    send(replies, "confined")
    # A text with a test is used like a module; alone it is a script.
    program = ModuleType("program" if job["tested"] else "__main__")
    sys.modules[program.__name__] = program
    _forget_own_modules()
    _reply(replies, _attempt(_define, job["source"], program))
    while True:
        what, arguments = receive(requests)
        _reply(replies, _attempt(ANSWERS[what], program, *decode(arguments)))


def _forget_own_modules() -> None:
    for name in [name for name in sys.modules if name.startswith("sharelora")]:
        del sys.modules[name]


def _define(source: str, program: ModuleType) -> None:
    exec(compile(source, FILE, "exec", dont_inherit=True), program.__dict__)


def _lookup(program: ModuleType, names: list[str]) -> dict[str, Any]:
    """Say what some names mean in the program: None for something that can be called, else a list of the value."""
    found = {name: program.__dict__[name] for name in names if name in program.__dict__}
    return {name: None if callable(value) else [value] for name, value in found.items() if _has_meaning(value)}


def _has_meaning(value: Any) -> bool:
    try:
        encode(None if callable(value) else value)
    except CannotBeSent:
        return False
    return True


def _call(program: ModuleType, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return program.__dict__[name](*arguments, **options)


ANSWERS: dict[str, Callable[..., Any]] = {"lookup": _lookup, "call": _call}


def _attempt(action: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Do it and return the result's form, or what was raised: its type, what it says, and the line of the program."""
    try:
        return {"value": encode(action(*arguments))}
    except BaseException as error:
        return {"raised": [type(error).__name__, _text(error), _line(error)]}


def _reply(replies: int, message: dict[str, Any]) -> None:
    """Send it, or say why it cannot be sent: it may be too large for the memory that is left."""
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
    """The last line of the program itself that was being run; of a syntax error, where it is."""
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == FILE else None
    trace = error.__traceback__
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == FILE else line
        trace = trace.tb_next
    return line
