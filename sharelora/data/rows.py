"""Rows of local files: JSON, JSON Lines, CSV, TSV and Parquet, each also gzipped.

A row is a dict of its columns. What is wrong is named by file and row: a parser raises `BadCell`, and `parse_rows` adds
which row it was.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sharelora.support.errors import UserError

Row = dict[str, Any]
Parsed = TypeVar("Parsed")


class _Damaged(Exception):
    """What is wrong with a file's content; `read_rows` adds the file's name and the way out."""


def _json(data: bytes) -> list[Row]:
    text = data.decode("utf-8-sig")
    try:
        value = json.loads(text)
    except ValueError as error:
        # Many published .json files are JSON Lines; a second value after the first tells them apart.
        if str(error).startswith("Extra data"):
            return _jsonl(data)
        raise _Damaged(f"is not valid JSON ({error})") from error
    rows = [value] if isinstance(value, dict) else value
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _Damaged("is not a list of objects")
    return rows


def _jsonl(data: bytes) -> list[Row]:
    rows = []
    # Only the newline ends a line: text may hold other characters that `splitlines` would break at.
    for number, line in enumerate(data.decode("utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _Damaged(f"has a damaged line {number} ({error})") from error
        if not isinstance(row, dict):
            raise _Damaged(f"has no object in line {number}")
        rows.append(row)
    return rows


def _table(delimiter: str) -> Callable[[bytes], list[Row]]:
    def read(data: bytes) -> list[Row]:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), delimiter=delimiter, strict=True)
        try:
            lines = [line for line in reader if line]
        except csv.Error as error:
            raise _Damaged(f"has a damaged line {reader.line_num} ({error})") from error
        header = lines[0] if lines else []
        for number, line in enumerate(lines[1:], 1):
            if len(line) != len(header):
                raise _Damaged(f"has {len(line)} cells in row {number} but {len(header)} columns")
        return [dict(zip(header, line, strict=True)) for line in lines[1:]]

    return read


def _parquet(data: bytes) -> list[Row]:
    # Slow to import, and few files need it.
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(io.BytesIO(data)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise _Damaged(f"is not valid Parquet ({error})") from error


READERS: dict[str, Callable[[bytes], list[Row]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".parquet": _parquet,
}
EXTENSIONS = tuple(extension + packed for extension in READERS for packed in ("", ".gz"))


def extension(path: str | Path) -> str | None:
    """The supported extension that a file name ends with, `.gz` included, or None."""
    name = Path(path).name.lower()
    return next((ending for ending in EXTENSIONS if name.endswith(ending) and len(name) > len(ending)), None)


@contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read into an error of one line."""
    try:
        yield
    except OSError as error:  # a damaged gzip header is one too
        raise UserError(f"cannot read {path}: {error.strerror or error}; check the file") from error
    except (EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged or cut short ({error}); copy it again") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); convert it") from error
    except _Damaged as error:
        raise UserError(f"{path} {error}; need one object per row; repair the file or convert it") from error


def _unpacked(path: str | Path) -> bytes:
    data = Path(path).read_bytes()
    return gzip.decompress(data) if str(path).lower().endswith(".gz") else data


def read_text(path: str | Path) -> str:
    """Read a text file, also a gzipped one, with its line ends as they are.

    Raises:
        UserError: the file is missing, damaged or not UTF-8.
    """
    with _explained(path):
        return _unpacked(path).decode("utf-8-sig")


def read_rows(path: str | Path) -> list[Row]:
    """Read every row of a local file as a dict of its columns.

    Raises:
        UserError: the file is missing, damaged, empty, or of an unknown kind.
    """
    ending = extension(path)
    if ending is None:
        raise UserError(f"found {path}; need a file ending in {', '.join(READERS)} (or with .gz); convert it")
    with _explained(path):
        rows = READERS[ending.removesuffix(".gz")](_unpacked(path))
    if not rows:
        raise UserError(f"{path} is empty; need at least one row; check the file")
    return rows


class BadCell(Exception):
    """What is wrong with one row; whoever goes through the rows adds which row it is."""


def parse_rows(
    rows: Sequence[Row], origin: str, parse: Callable[[Row], Parsed], needed: str = "what the other rows have"
) -> list[Parsed]:
    """Parse rows one by one.

    Args:
        rows: as read.
        origin: where they are from, for messages.
        parse: row -> what it says; raises KeyError for a missing column, and for a bad value BadCell, ValueError,
            TypeError or AttributeError.
        needed: what a row needs, for messages.

    Raises:
        UserError: no rows, or a malformed one; origin and row are named.
    """
    if not rows:
        raise UserError(f"{origin} is empty; need at least one row; check the file")
    parsed = []
    for number, row in enumerate(rows, 1):
        try:
            parsed.append(parse(row))
        except (BadCell, KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"no column {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{origin}, row {number}: {reason}; need {needed}; repair or remove it") from error
    return parsed


def cell(row: Row, column: str) -> str:
    """The text of a cell.

    Raises:
        BadCell: it is missing, or a list or an object.
    """
    value = row.get(column)
    if value is None:
        raise BadCell(f"nothing in column {column}")
    if isinstance(value, (list, dict)):
        raise BadCell(f"a {type(value).__name__} in column {column} where text is needed")
    return str(value)


def optional(row: Row, column: str) -> str:
    """The text of a cell, empty if the cell is."""
    return cell(row, column) if row.get(column) is not None else ""


def summary(value: Any, width: int = 60) -> str:
    """The beginning of a text on one line, for messages."""
    line = " ".join(str(value).split())
    return line if len(line) <= width else line[: width - 3] + "..."
