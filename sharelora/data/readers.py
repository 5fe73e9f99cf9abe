"""The bytes of a table as rows: JSON, JSON Lines, CSV, TSV and Parquet.

What no row can hold is refused here, so that nobody who reads a row has to ask for it: half of a character, a column
name twice. A cell of CSV or TSV that is empty, or is `nan`, is a missing value, None: such a file has no other way to
say so, and none to say that a text is empty.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from sharelora.support.errors import out_of_memory
from sharelora.support.reading import HALF, parse_json
from sharelora.support.text import one_line

# A row, and the line of the file that it begins in; None where a file has no lines.
Numbered = tuple[dict[str, Any], int | None]

_SEPARATORS = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a bar"}
# What programs write to these for a value that is missing: pandas nothing, Python's own module nan.
MISSING = frozenset({"", "nan", "NaN"})
# The first half of a character beyond 16 bits, or the second.
_HALF = re.compile("[\ud800-\udfff]")
_OBJECTS = "need one object per row"


class Damaged(Exception):
    """What is wrong with a file's content, and what is needed; whoever reads the file adds its name.

    Args:
        fault: what was found.
        need: what is needed, and what to do.
    """

    def __init__(self, fault: str, need: str = f"{_OBJECTS}; repair the file or convert it") -> None:
        super().__init__(f"{fault}; {need}")


class _Twice(dict[str, Any]):
    """An object of JSON with a key twice."""

    name = ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    twice = _Twice(found)
    twice.name = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
    return twice


def _fault(value: Any, halves: bool) -> str | None:
    """What is wrong with a value of JSON, or with something in it; None if nothing is."""
    if isinstance(value, str):
        return "half of a character (a lone surrogate)" if halves and _HALF.search(value) else None
    if isinstance(value, _Twice):
        return f"the name {value.name!r} twice"
    if isinstance(value, dict):
        return _fault(list(value), halves) or next(
            filter(None, (_fault(each, halves) for each in value.values())), None
        )
    if isinstance(value, list):
        return next(filter(None, (_fault(each, halves) for each in value)), None)
    return None


def _refuse_faults(row: dict[str, Any], halves: bool, place: str) -> None:
    for name, value in row.items():
        if fault := _fault(name, halves) or _fault(value, halves):
            raise Damaged(f"has {fault} in {place}, column {ascii(name)[1:-1]}", "need whole texts; repair the row")
    if fault := _fault(row, False):
        raise Damaged(f"has {fault} in {place}", "need a name for each column; rename or remove one")


def decoded(data: bytes) -> str:
    """Bytes as text.

    Raises:
        Damaged: UTF-16.
        UnicodeDecodeError: not UTF-8.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Damaged("is UTF-16 text", "need UTF-8; save it again as UTF-8")
    return data.decode("utf-8-sig")


def _json(data: bytes) -> Iterator[Numbered]:
    text = decoded(data)
    try:
        value = parse_json(text, object_pairs_hook=_object)
    except ValueError as error:
        # Many published .json files are JSON Lines; a second value after the first tells them apart.
        if str(error).startswith("Extra data"):
            yield from _jsonl(data)
            return
        raise Damaged(f"is not valid JSON ({error})") from error
    rows = [value] if isinstance(value, dict) else value
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Damaged("is not a list of objects")
    halves = HALF.search(text) is not None
    for number, row in enumerate(rows, 1):
        _refuse_faults(row, halves, f"row {number}")
        yield row, None


def _jsonl(data: bytes) -> Iterator[Numbered]:
    # Only the newline ends a line: text may hold other characters that `splitlines` would break at.
    for number, line in enumerate(decoded(data).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line, object_pairs_hook=_object)
        except ValueError as error:
            raise Damaged(f"has a damaged line {number} ({error})") from error
        if not isinstance(row, dict):
            raise Damaged(f"has no object in line {number}")
        _refuse_faults(row, HALF.search(line) is not None, f"line {number}")
        yield row, number


def _table(separator: str) -> Callable[[bytes], Iterator[Numbered]]:
    def read(data: bytes) -> Iterator[Numbered]:
        lines = _lines(decoded(data), separator)
        header = next(lines, (0, []))[1]
        _refuse_header(header, separator)
        for number, (line, cells) in enumerate(lines, 1):
            if len(cells) != len(header):
                raise Damaged(
                    f"has {len(cells)} cells in row {number} but {len(header)} columns (line {line}; the separator is "
                    f"{_SEPARATORS[separator]})",
                    "need a cell for each column; quote the cells that have a separator in them",
                )
            yield dict(zip(header, (None if cell in MISSING else cell for cell in cells), strict=True)), line

    return read


def _lines(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of every row that is not blank, and the line that it begins in."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    # The limit of the csv module, 131,072 characters a cell, holds for the whole process: it is lifted and put back.
    before = csv.field_size_limit(sys.maxsize)
    line = 1
    rows = []
    try:
        for cells in reader:
            if cells:
                rows.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise Damaged(
            f"has a damaged line {line} ({error}; the separator is {_SEPARATORS[separator]})",
            "need a quote that begins a cell to end it too, and one inside to be written twice; repair the line",
        ) from error
    finally:
        csv.field_size_limit(before)
    yield from rows


def _refuse_header(header: Sequence[str], separator: str) -> None:
    for other in _SEPARATORS:
        if len(header) == 1 and other != separator and other in header[0]:
            raise Damaged(
                f"has {_SEPARATORS[other]} between its columns ({' '.join(header[0].split())[:60]})",
                f"need {_SEPARATORS[separator]}; save it with that, "
                f"{'or call it .tsv' if other == chr(9) else 'or call it .csv' if other == ',' else 'or as .jsonl'}",
            )
    _refuse_twice(header)


def _refuse_twice(names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise Damaged(f"has the column {twice[0]!r} twice", "need one name for each column; rename or remove one")


def _parquet(data: bytes) -> Iterator[Numbered]:
    # Slow to import, and few files need it.
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        _refuse_twice(file.schema_arrow.names)
        rows = file.read().to_pylist()
    except Damaged:
        raise
    except Exception as error:  # of pyarrow's own kinds, and of Python's for a value that Python does not have
        if out_of_memory(error):
            raise
        raise Damaged(f"is not valid Parquet ({one_line(error)})") from error
    yield from ((row, None) for row in rows)


READERS: dict[str, Callable[[bytes], Iterator[Numbered]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".parquet": _parquet,
}
