"""Rows of tables: read from local files, also gzipped ones, and their cells.

A row is a dict of its columns. A value that is missing (null, NaN, an empty cell of CSV) is None. What is wrong is
named by file and row: a parser raises `BadCell`, and `parse_rows` adds which row it was.
"""

from __future__ import annotations

import datetime
import gzip
import logging
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from sharelora.data.readers import READERS, Damaged, decoded
from sharelora.support.errors import UserError
from sharelora.support.reading import read_bytes

Row = dict[str, Any]
Parsed = TypeVar("Parsed")

logger = logging.getLogger(__name__)

# How some programs write that a value is missing. They may also be words of a text: an answer can be `None`.
MISSING_WORDS = frozenset({"<NA>", "NA", "N/A", "n/a", "None", "null", "NULL"})
# What packed bytes may become; rows of text shrink to a fifth or a tenth, and an attack to a thousandth.
_LEAST_UNPACKED, _MOST_RATIO = 1 << 20, 200
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
    except Damaged as error:
        raise UserError(f"{path} {error}") from error


def _unpacked(path: str | Path) -> bytes:
    data = read_bytes(path)
    if not str(path).lower().endswith(".gz"):
        return data
    most = _LEAST_UNPACKED + _MOST_RATIO * len(data)
    with gzip.open(BytesIO(data)) as packed:
        unpacked = packed.read(most + 1)
    if len(unpacked) > most:
        raise UserError(
            f"{path} has {len(data):,} bytes that become more than {most:,}; need a table, which shrinks to a "
            f"{_MOST_RATIO}th at most; unpack it if it is one"
        )
    return unpacked


def read_text(path: str | Path) -> str:
    """Read a text file, also a gzipped one, with its line ends as they are.

    Raises:
        UserError: the file is missing, damaged or not UTF-8.
    """
    with _explained(path):
        return decoded(_unpacked(path))


def read_rows(path: str | Path) -> list[Row]:
    """Read every row of a local file as a dict of its columns.

    Raises:
        UserError: the file is missing, damaged, empty, or of an unknown kind.
    """
    ending = extension(path)
    if ending is None:
        raise UserError(f"found {path}; need a file ending in {', '.join(READERS)} (or with .gz); convert it")
    with _explained(path):
        numbered = list(READERS[ending.removesuffix(".gz")](_unpacked(path)))
    rows: list[Row] = [FileRow(row, str(path), number, line) for number, (row, line) in enumerate(numbered, 1)]
    if not rows:
        raise UserError(f"{path} is empty; need at least one row; check the file")
    if ending.startswith((".csv", ".tsv")):
        _warn_of_words(rows)
    return rows


def _warn_of_words(rows: Sequence[Row]) -> None:
    """Say how many cells of a table without types are a word that may have been meant as a missing value."""
    places = [place(row, 0) for row in rows for value in row.values() if value in MISSING_WORDS]
    if places:
        logger.warning(
            "warning: %s has one of %s in a cell, %d in all: such a word is a text; leave the cells of missing values "
            "empty",
            places[0],
            ", ".join(sorted(MISSING_WORDS)),
            len(places),
        )


class FileRow(dict[str, Any]):
    """A row that knows where it is from, also when others have been left out before it; NaN in it becomes None.

    Args:
        columns: name -> value.
        origin: its file, or the hub's name of the set and the split.
        number: of the row there, from 1.
        line: of the file, if it has lines.
    """

    __slots__ = ("line", "number", "origin")

    def __init__(self, columns: Row, origin: str, number: int, line: int | None = None) -> None:
        super().__init__((name, None if missing(value) else value) for name, value in columns.items())
        self.origin, self.number, self.line = origin, number, line

    def __reduce__(self) -> tuple[Any, ...]:
        return FileRow, (dict(self), self.origin, self.number, self.line)

    @property
    def place(self) -> str:
        """Where it is, for messages: `rows.csv, row 2 (line 3)`."""
        line = "" if self.line in (None, self.number) else f" (line {self.line})"
        return f"{self.origin}, row {self.number}{line}"


def numbered_rows(rows: Iterable[Row], origin: str) -> list[Row]:
    """Rows that did not come from a file, e.g. from the hub, as rows that know where they are from."""
    return [FileRow(row, origin, number) for number, row in enumerate(rows, 1)]


def place(row: Row, number: int, origin: str | None = None) -> str:
    """Where a row is, for messages.

    Args:
        row: the row.
        number: its number, from 1, if it does not know it itself.
        origin: likewise.
    """
    if isinstance(row, FileRow):
        return row.place
    return f"row {number}" if origin is None else f"{origin}, row {number}"


def changed(row: Row, columns: Row) -> Row:
    """A row with some columns set; it stands where it stood."""
    new = {**row, **columns}
    return FileRow(new, row.origin, row.number, row.line) if isinstance(row, FileRow) else new


def columns_of(rows: Iterable[Row]) -> list[str]:
    """Every column that at least one row has, in the order in which they are first seen."""
    return list(dict.fromkeys(column for row in rows for column in row))


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
            where = place(row, number, origin)
            raise UserError(f"{where}: {reason}; need {needed}; repair or remove it") from error
    return parsed


# Values that a cell of text may have: a table often holds a number where a text is meant.
_AS_TEXT = (str, int, float, Decimal, datetime.date, datetime.time)


def missing(value: Any) -> bool:
    """Whether a value says that there is none: null, or NaN as programs write it for an empty cell."""
    return value is None or (isinstance(value, float | Decimal) and math.isnan(value))


def cell(row: Row, column: str) -> str:
    """The text of a cell.

    Raises:
        BadCell: it is missing, or neither text nor a number.
    """
    value = row.get(column)
    if missing(value):
        raise BadCell(f"nothing in column {column}")
    if not isinstance(value, _AS_TEXT) or (isinstance(value, float) and math.isinf(value)):
        kind = "an infinite number" if isinstance(value, float) else f"a {type(value).__name__}"
        raise BadCell(f"{kind} in column {column} where text is needed")
    return str(value)


def optional(row: Row, column: str) -> str:
    """The text of a cell, empty if its value is missing."""
    return "" if missing(row.get(column)) else cell(row, column)


def summary(value: Any, width: int = 60) -> str:
    """The beginning of a text on one line, for messages."""
    line = " ".join(str(value).split())
    return line if len(line) <= width else line[: width - 3] + "..."
