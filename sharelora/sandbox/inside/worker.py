"""The process in which the program runs: it executes the program, and calls its functions when the checker asks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NoReturn

from sharelora.sandbox.inside.confine import confine
from sharelora.sandbox.inside.wire import CannotBeSent, decode, encode, receive, send

FILE = "program.py"
# Calls within calls while values are taken apart and built: enough for containers that are nested as deep as Python
# itself can compare them. The checker has a little more, so that it can read whatever arrives.
DEPTH = 8000


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
        with _deep():
            request, form = receive(requests)
            arguments = decode(form)
        _reply(replies, _attempt(ANSWERS[request], program, *arguments))


@contextmanager
def _deep() -> Iterator[None]:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, DEPTH))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _define(source: str, program: ModuleType) -> None:
    """Run the program as a file, so that it finds its own text (`__file__`, `inspect.getsource`)."""
    program.__file__ = os.path.abspath(FILE)
    sys.argv = [program.__file__]
    with open(program.__file__, "w", encoding="utf-8", errors="surrogatepass", newline="") as file:
        file.write(source)
    text = source.removeprefix("\ufeff")  # as in a file, where it marks UTF-8
    exec(compile(text, program.__file__, "exec", dont_inherit=True), program.__dict__)


def _lookup(program: ModuleType, names: list[str]) -> dict[str, Any]:
    """Look names up in the program: None for something that can be called, else a list with the value if it has one."""
    values = {name: program.__dict__[name] for name in names if name in program.__dict__}
    return {name: None if callable(value) else _sendable(value) for name, value in values.items()}


def _sendable(value: Any) -> list[Any]:
    try:
        with _deep():
            encode(value)
    except (CannotBeSent, RecursionError):
        return []
    return [value]


def _call(program: ModuleType, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return program.__dict__[name](*arguments, **options)


ANSWERS: dict[str, Callable[..., Any]] = {"lookup": _lookup, "call": _call}


def _attempt(action: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Return the form of the result, or of the exception, or why the result has none."""
    try:
        result = action(*arguments)
        with _deep():
            return {"value": encode(result)}
    except CannotBeSent as error:
        return {"unsent": str(error)}
    except RecursionError as error:
        # The program's own, or that of `encode`.
        return _raised(error) if _line(error) else {"unsent": "a value too deep to be sent"}
    except BaseException as error:
        return _raised(error)


def _raised(error: BaseException) -> dict[str, Any]:
    """The form of an exception: its classes, its text, the line of the program, and its arguments."""
    kinds = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]
    try:
        with _deep():
            arguments = encode(list(error.args))
    except BaseException:
        arguments = [_text(error)]
    return {"raised": [kinds, _text(error), _line(error), arguments]}


def _reply(replies: int, message: dict[str, Any]) -> None:
    """Send a reply, or why it cannot be sent: it may be too large for the memory that is left."""
    try:
        with _deep():
            send(replies, message)
    except Exception as error:
        send(replies, _raised(error))


def _text(error: BaseException) -> str:
    try:
        return str(error.msg if isinstance(error, SyntaxError) else error)[:1000]
    except BaseException:
        return ""


def _line(error: BaseException) -> int | None:
    """The last line of the program itself that was running; of a syntax error, its own line."""
    line = error.lineno if isinstance(error, SyntaxError) and _is_program(error.filename) else None
    trace = error.__traceback__
    while trace is not None:
        line = trace.tb_lineno if _is_program(trace.tb_frame.f_code.co_filename) else line
        trace = trace.tb_next
    return line


def _is_program(file: str | None) -> bool:
    return file is not None and file.endswith(f"/{FILE}")
