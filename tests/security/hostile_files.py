"""Good files made bad: bytes that are changed, cut or repeated, and values of JSON that are of another kind or size."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

Mutation = Callable[[random.Random, bytes], bytes]

DEEP = "[" * 5000 + "]" * 5000
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 10**12, 10**30, 0.5, -1.0, 1e308, float("nan"), float("inf"), -float("inf")),
    *("", " ", "x", "..", "../../x", "/dev/zero", "a\0b", "\n", "1", "nan", "none", "*", "(", "(\\w+)*x", "\\", "é"),
    *("x" * 5000, "(a|a)*b", "lora_A/x/1x1", [], {}, [[]], [None], [1, "x"], ["x"], {"x": None}, {"": []}, [0, -1]),
)
# In the place of a value, what no program writes.
RAW = (DEEP, "9" * 5000, "-" + "9" * 150, "1e999", '"\\ud83d"', "NaN", "nul", '{"a": 1, "a": 2}', "'x'", "")
BYTES = (
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b'"',
    b"\n",
    b"\r",
    b",",
    b"{",
    b"]",
    b"\\",
    b"-",
    b"9" * 4500,
    b"\t",
    b"||",
    b"<a>",
)

# In the place of a word.
INSTEAD = (b"&a [*a]", b"!!int x", b"- :", b"{{", b"[" * 2000, b"<<: 1", *(str(value).encode() for value in VALUES))


def flip(chance: random.Random, data: bytes) -> bytes:
    """Change a few bytes."""
    changed = bytearray(data or b"x")
    for _ in range(chance.choice((1, 1, 2, 8))):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def cut(chance: random.Random, data: bytes) -> bytes:
    """Leave out the end, or a part."""
    first, last = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return data[:first] + (data[last:] if chance.random() < 0.5 else b"")


def put_in(chance: random.Random, data: bytes) -> bytes:
    """Put something in."""
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice(BYTES) + data[at:]


def repeat(chance: random.Random, data: bytes) -> bytes:
    """Repeat a part."""
    first, last = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return data[:last] + data[first:last] * chance.choice((1, 2, 20)) + data[last:]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a value with a key or an index in it."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def change_value(chance: random.Random, data: bytes) -> bytes:
    """Change, leave out or double something in JSON."""
    value = copy.deepcopy(json.loads(data))
    places = list(_places(value))
    if not places or chance.random() < 0.03:
        return json.dumps(chance.choice(VALUES)).encode()
    container, key = chance.choice(places)
    mark = "\u0001a mark\u0001"
    way = chance.random()
    if way < 0.15:
        del container[key]
    elif way < 0.3:
        container[key] = mark
        return json.dumps(value).replace(json.dumps(mark), chance.choice(RAW)).encode()
    elif way < 0.4 and isinstance(container, dict):
        container[mark] = container[key]
        return json.dumps(value).replace(json.dumps(mark), json.dumps(key)).encode()
    else:
        container[key] = chance.choice(VALUES)
    return json.dumps(value).encode()


def change_header(chance: random.Random, data: bytes) -> bytes:
    """Change something in the header of safetensors, whose length is put right."""
    length = struct.unpack("<Q", data[:8])[0]
    header = change_value(chance, data[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def change_line(chance: random.Random, data: bytes) -> bytes:
    """Change a value in one of the lines of JSON, or leave out or double a line."""
    lines = data.split(b"\n")
    index = chance.randrange(len(lines))
    if chance.random() < 0.15 or not lines[index].strip():
        lines[index : index + 1] = [lines[index]] * chance.choice((0, 2))
    else:
        lines[index] = change_value(chance, lines[index])
    return b"\n".join(lines)


def change_word(chance: random.Random, data: bytes) -> bytes:
    """Put another value in the place of a word of a text."""
    words = data.split(b" ")
    words[chance.randrange(len(words))] = chance.choice(INSTEAD)
    return b" ".join(words)


ANY: tuple[Mutation, ...] = (flip, cut, put_in, repeat)
JSON: tuple[Mutation, ...] = (*ANY, *[change_value] * 8)
LINES: tuple[Mutation, ...] = (*ANY, *[change_line] * 8)
TENSORS: tuple[Mutation, ...] = (*ANY, *[change_header] * 8)
WORDS: tuple[Mutation, ...] = (*ANY, *[change_word] * 6)
