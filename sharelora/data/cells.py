"""Take text out of the cells of a row."""

from __future__ import annotations

from typing import Any

from sharelora.data.readers import Row


class BadCell(Exception):
    """What is wrong with one row; whoever goes through the rows adds which row it is."""


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
    """The text of a cell, empty where there is none."""
    return cell(row, column) if row.get(column) is not None else ""


def summary(value: Any, width: int = 60) -> str:
    """The beginning of a text on one line, for messages."""
    line = " ".join(str(value).split())
    return line if len(line) <= width else line[: width - 3] + "..."
