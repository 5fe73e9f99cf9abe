"""Values and messages between the two processes of a sandbox: the checker and the program.

The checker must not run anything that the program made. So messages are JSON, and only plain values have a form in it:
the checker compares numbers, text and containers that it has built itself, whose `==` is Python's own.
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

LONGEST_MESSAGE = 16 * 2**20
LONG_NUMBER = 2**63  # Python may refuse to write much larger numbers in decimal

# name -> the type, how to take a value apart, and how to build it again
FORMS: dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "tuple": (tuple, list, tuple),
    "set": (set, list, set),
    "frozenset": (frozenset, list, frozenset),
    "deque": (deque, list, deque),
    "dict": (dict, lambda value: [list(pair) for pair in dict.items(value)], dict),
    "keys": (type({}.keys()), list, lambda items: dict.fromkeys(items).keys()),
    "values": (type({}.values()), list, lambda items: dict(enumerate(items)).values()),
    "items": (type({}.items()), lambda value: [list(pair) for pair in value], lambda items: dict(items).items()),
    "bytes": (bytes, lambda value: bytes(value).hex(), bytes.fromhex),
    "bytearray": (bytearray, lambda value: bytes(value).hex(), bytearray.fromhex),
    "range": (range, lambda value: [value.start, value.stop, value.step], lambda ends: range(*ends)),
    "complex": (complex, lambda value: [value.real, value.imag], lambda parts: complex(*parts)),
    "iterator": (Iterator, list, iter),
    "Ellipsis": (type(...), lambda value: None, lambda parts: ...),
    "NotImplemented": (type(NotImplemented), lambda value: None, lambda parts: NotImplemented),
}
DATE, TIME = ("year", "month", "day"), ("hour", "minute", "second", "microsecond", "tzinfo")
# Classes of the standard library's modules, which are loaded only if the program has loaded them: the class -> its
# module, and the arguments, without and with names, that make a value again. A class comes before those it is derived
# from.
CLASSES: dict[str, tuple[str, Callable[[Any], tuple[list[Any], dict[str, Any]]]]] = {
    "Decimal": ("decimal", lambda value: ([str(value)], {})),
    "Fraction": ("fractions", lambda value: ([str(value)], {})),
    "datetime": ("datetime", lambda value: ([*_parts(value, DATE), *_parts(value, TIME)], {"fold": value.fold})),
    "date": ("datetime", lambda value: (_parts(value, DATE), {})),
    "time": ("datetime", lambda value: (_parts(value, TIME), {"fold": value.fold})),
    "timedelta": ("datetime", lambda value: (_parts(value, ("days", "seconds", "microseconds")), {})),
    "timezone": ("datetime", lambda value: (list(value.__getinitargs__()), {})),
    "ZoneInfo": ("zoneinfo", lambda value: ([value.key], {})),
    "UUID": ("uuid", lambda value: ([value.hex], {})),
    "array": ("array", lambda value: ([value.typecode, value.tolist()], {})),
}


class CannotBeSent(TypeError):
    """A value without a form: a function, an object of a class of the program's own."""


class TooLong(ValueError):
    """A value whose message would be longer than `LONGEST_MESSAGE`."""


def encode(value: Any) -> Any:
    """Return the form of a value: JSON's own values and lists as they are, anything else as `{name: its parts}`.

    Values of a class derived from a plain one become plain: a `Counter` a dict, a named tuple a tuple.

    Raises:
        CannotBeSent: it has no form, or contains something that has none.
    """
    if value is None or isinstance(value, (bool, float, str)):
        return value
    if isinstance(value, int):
        return value if abs(value) < LONG_NUMBER else {"int": hex(value)}
    if isinstance(value, list):
        return [encode(item) for item in value]
    for name, (kind, parts, _) in FORMS.items():
        if isinstance(value, kind):
            return {name: encode(parts(value))}
    for name, (module, arguments) in CLASSES.items():
        if module in sys.modules and isinstance(value, getattr(sys.modules[module], name)):
            return {name: encode(list(arguments(value)))}
    raise CannotBeSent(f"a value of type {type(value).__name__}, which cannot be sent")


def decode(form: Any) -> Any:
    """Return the value of a form.

    Raises:
        Exception: of any kind, if the form was not made by `encode`.
    """
    if isinstance(form, list):
        return [decode(item) for item in form]
    if not isinstance(form, dict):
        return form
    [(name, parts)] = form.items()
    if name == "int":
        return int(parts, 16)
    if name in CLASSES:
        arguments, options = decode(parts)
        return getattr(__import__(CLASSES[name][0]), name)(*arguments, **options)
    return FORMS[name][2](decode(parts))


def _parts(value: Any, names: tuple[str, ...]) -> list[Any]:
    return [getattr(value, name) for name in names]


def send(pipe: int, message: Any) -> None:
    """Write a message of JSON's own values.

    Raises:
        TooLong: it is too long; nothing is written.
    """
    text = json.dumps(message).encode()
    if len(text) > LONGEST_MESSAGE:
        raise TooLong(f"a value of {len(text):,} bytes; at most {LONGEST_MESSAGE:,} are allowed")
    remaining = memoryview(len(text).to_bytes(8, "little") + text)
    while remaining:
        remaining = remaining[os.write(pipe, remaining) :]


def receive(pipe: int) -> Any:
    """Read the next message.

    Raises:
        EOFError: the other end is closed.
        ValueError: it is longer than `send` allows, or not JSON.
    """
    length = int.from_bytes(read_exactly(pipe, 8), "little")
    if length > LONGEST_MESSAGE:
        raise ValueError(f"a message of {length:,} bytes")
    return json.loads(read_exactly(pipe, length))


def read_exactly(pipe: int, length: int) -> bytes:
    """Read that many bytes and not one more: the rest may be for another process.

    Raises:
        EOFError: there are fewer.
    """
    parts = []
    while length:
        part = os.read(pipe, min(length, 2**20))
        if not part:
            raise EOFError("the other end is closed")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
