"""Files that others wrote, read within limits: bytes, text, JSON, and what a value has to look like.

Whatever a file holds, reading it ends soon, with a value or with one line that names the file. A shape says what is
needed, in Python's own words:

    int, float, str, bool, None      a value of that kind; float takes whole numbers too, and is finite
    range(1, 9)                      a whole number in the range
    Text(100), OneOf(("a", "b"))     a text of at most so many characters, one of these texts
    (str, None)                      one of these
    [int]                            a list of these
    {"r": int, "alpha?": float}      an object that has these, those with a question mark if at all, and may have others
    {...: int}                       an object of these, whatever their names
    object                           anything
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from sharelora.support.errors import UserError, out_of_memory
from sharelora.support.text import one_line

# The index of a model of 100,000 weights has 10 MB.
MOST_BYTES = 32 << 20
# Lists and objects inside of each other; Python's own limit ends in a RecursionError.
MOST_LEVELS = 100
# Python refuses to read a whole number of thousands of digits, and one of hundreds is larger than any float.
MOST_DIGITS = 100
_MANY_DIGITS = re.compile(f"[0-9]{{{MOST_DIGITS + 1}}}")
# Half of a character beyond 16 bits, as JSON writes it: no file can hold it, and no name of a file.
HALF = re.compile(r"\\u[dD][89a-fA-F]")
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_WORDS: dict[Any, str] = {
    **{int: "a whole number", float: "a number", str: "text", bool: "true or false", None: "null"},
    **{list: "a list", dict: "an object"},
}
DAMAGED = "it may be damaged or of another kind"

Shape = Any  # see above


@dataclass(frozen=True)
class Text:
    """The shape of a text with a limit: what is compared with patterns must not be long."""

    most: int


@dataclass(frozen=True)
class OneOf:
    """The shape of a text that is one of a few."""

    texts: tuple[str, ...]


NAME = Text(1000)


def open_file(path: str | Path) -> BufferedReader:
    """Open a regular file for reading: a pipe would wait for its writer for ever, and a device never ends.

    Raises:
        UserError: it is missing, not readable, or no regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    except ValueError as error:
        raise UserError(f"cannot read {path}: no file has such a name; check the path") from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise UserError(
        f"cannot read {path}: it is {_KINDS.get(stat.S_IFMT(mode), 'no file')}; need a file; check the path"
    )


def read_bytes(path: str | Path, most: int | None = None) -> bytes:
    """Read a file whole.

    Args:
        path: of the file.
        most: bytes that it may have; None for any number.

    Raises:
        UserError: see `open_file`; or it is larger.
    """
    with open_file(path) as handle:
        found = os.fstat(handle.fileno()).st_size
        if most is not None and found > most:
            raise UserError(f"{path} has {found:,} bytes; need at most {most:,}; {DAMAGED}")
        try:
            return handle.read() if most is None else handle.read(most)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; check the disk") from error


def read_text(path: str | Path, most: int | None = MOST_BYTES) -> str:
    """Read a file of UTF-8, with or without a byte order mark.

    Raises:
        UserError: see `read_bytes`; or it is not UTF-8.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); {DAMAGED}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice[:60]!r} twice")
    return found


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def parse_json(text: str, **hooks: Any) -> Any:
    """Read JSON within limits: of depth, of digits, and each key of an object once.

    Args:
        text: the JSON.
        hooks: of `json.loads`, in the place of these.

    Raises:
        ValueError: no JSON, or beyond a limit.
    """
    if _MANY_DIGITS.search(text):
        hooks = {"parse_int": _whole, **hooks}
    try:
        value = json.loads(text, **{"object_pairs_hook": _once, **hooks})
    except RecursionError as error:
        raise ValueError(_too_deep()) from error
    require_shallow(value)
    return value


def _too_deep() -> str:
    return f"nested deeper than {MOST_LEVELS} levels"


def require_shallow(value: Any, items: int | None = None) -> None:
    """Refuse lists and objects that are nested too deep, or have too much in them.

    Args:
        value: as it was read.
        items: most values in all; one that is in it several times, as YAML can say it, counts each time.

    Raises:
        ValueError: it is.
    """
    level, count = [value], 0
    for _ in range(MOST_LEVELS + 1):
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return
        count += sum(map(len, level))
        if items is not None and count > items:
            raise ValueError(f"more than {items:,} values")
        level = [item for each in level for item in (each.values() if isinstance(each, dict) else each)]
    raise ValueError(_too_deep())


def read_json(path: str | Path, shape: Shape = dict, most: int = MOST_BYTES) -> Any:
    """Read a JSON file.

    Args:
        path: of the file.
        shape: what it has to hold, see above; by default an object.
        most: bytes that it may have.

    Raises:
        UserError: the file is missing, is not JSON or beyond a limit, or holds something else.
    """
    text = read_text(path, most)
    try:
        value = parse_json(text)
        if HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{path} is not valid JSON (half of a character); {DAMAGED}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); {DAMAGED}") from error
    require_shape(value, shape, path)
    return value


def require_shape(value: Any, shape: Shape, where: object) -> None:
    """Refuse a value of another shape.

    Args:
        value: to look at.
        shape: see above.
        where: it is from, for the message.

    Raises:
        UserError: what does not fit first.
    """
    if fault := misfit(value, shape):
        raise UserError(f"{where} has {fault}; {DAMAGED}")


def misfit(value: Any, shape: Shape, name: str = "") -> str | None:
    """Say what in a value does not have a shape, and what is needed; None if all has.

    Args:
        value: to look at.
        shape: see above.
        name: of the value, such as `plan.sites[0]`.
    """
    shapes = shape if isinstance(shape, tuple) else (shape,)
    kind = next((one for one in shapes if _is_kind(value, one)), ...)
    if kind is ...:
        return f"{_shown(value)}{f' as {name}' if name else ''}; need {' or '.join(map(_words, shapes))}"
    if isinstance(kind, list):
        return _first(misfit(item, kind[0], f"{name}[{index}]") for index, item in enumerate(value))
    if not isinstance(kind, dict):
        return None
    start = f"{name}." if name else ""
    if ... in kind:
        return _first(misfit(item, kind[...], f"{start}{key[:60]}") for key, item in value.items())
    lacking = [key for key in kind if not key.endswith("?") and key not in value]
    if lacking:
        return f"no {start}{lacking[0]}"
    own = ((key.removesuffix("?"), one) for key, one in kind.items())
    return _first(misfit(value[key], one, f"{start}{key}") for key, one in own if key in value)


def _first(faults: Iterator[str | None]) -> str | None:
    return next((fault for fault in faults if fault), None)


def _is_kind(value: Any, shape: Shape) -> bool:
    """Whether a value is of the kind of a shape, whatever is in it."""
    if shape is object or shape is None:
        return shape is object or value is None
    if isinstance(shape, Text):
        return isinstance(value, str) and len(value) <= shape.most
    if isinstance(shape, OneOf):
        return isinstance(value, str) and value in shape.texts
    if isinstance(shape, range):
        return type(value) is int and value in shape
    if shape is float:
        return type(value) in (int, float) and math.isfinite(value)
    if shape in (int, bool):
        return type(value) is shape
    return isinstance(value, shape if isinstance(shape, type) else type(shape))


def _words(shape: Shape) -> str:
    if isinstance(shape, Text):
        return f"text of at most {shape.most:,} characters"
    if isinstance(shape, OneOf):
        return f"one of {', '.join(shape.texts)}"
    if isinstance(shape, range):
        return f"a whole number from {shape.start:,} to {shape.stop - 1:,}"
    if isinstance(shape, list | dict):
        shape = type(shape)
    return _WORDS[shape]


def _shown(value: Any) -> str:
    names: dict[type, str] = {list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value)) or repr(value)[:60]


@contextmanager
def library_errors(what: str, advice: str) -> Iterator[None]:
    """Turn whatever a library raises about a file of others into one line; it may be of any kind.

    Args:
        what: cannot be done, as the beginning of the line.
        advice: what is needed, and what to do.

    Raises:
        UserError: the library failed, but for lack of memory, which is explained elsewhere.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        raise UserError(f"{what}: {one_line(error)}; {advice}") from error
