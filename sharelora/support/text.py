"""Text for people: sizes in bytes, tables in columns, and what somebody probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence

from sharelora.support.secrets import hide

_UNITS = ("kB", "MB", "GB", "TB")


def size(count: float) -> str:
    """Return a number of bytes with three digits and a decimal unit: 1 kB is 1000 B."""
    if abs(count) < 1000:
        return f"{count:.0f} B"
    power = next((i for i in range(1, len(_UNITS)) if abs(count) < 999.5 * 1000**i), len(_UNITS))
    value = count / 1000**power
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f} {_UNITS[power - 1]}"


def columns(rows: Sequence[Sequence[str]], left: int | Iterable[int] = 1) -> list[str]:
    """Return rows of cells as lines of text with aligned columns, two spaces apart.

    Args:
        rows: cells, the same number in every row.
        left: how many columns, counted from the first, are aligned on the left, or which ones; the others, usually
            numbers, are aligned on the right.
    """
    return ["  ".join(row).rstrip() for row in _aligned(rows, _left_columns(left))]


def markdown_table(rows: Sequence[Sequence[str]], left: int | Iterable[int] = 1) -> list[str]:
    """Return rows of cells, the headers first, as the lines of a Markdown table that is aligned as plain text too.

    Args:
        rows: cells, the same number in every row.
        left: as in `columns`.
    """
    on_the_left = _left_columns(left)
    lines = [f"| {' | '.join(row)} |" for row in _aligned(rows, on_the_left)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rules = ["-" * (width + 1) + ("-" if index in on_the_left else ":") for index, width in enumerate(widths)]
    return [lines[0], f"|{'|'.join(rules)}|", *lines[1:]]


def _left_columns(left: int | Iterable[int]) -> set[int]:
    return set(range(left)) if isinstance(left, int) else set(left)


def _aligned(rows: Sequence[Sequence[str]], left: Collection[int]) -> list[list[str]]:
    """Pad every cell to the width of its column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        [
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]


def nearest(word: str, known: Iterable[str], n: int = 1, cutoff: float = 0.5) -> list[str]:
    """Return the known words that are spelled most like one that is unknown, the likeliest first; often none."""
    return difflib.get_close_matches(word, list(known), n=n, cutoff=cutoff)


def one_line(error: object, length: int | None = 300) -> str:
    """Return the message of another library's error on one line; its type if it has none.

    Args:
        error: what was raised.
        length: most characters; None for all of them.
    """
    # Hidden before it is cut: half a token is not recognised as one.
    return hide(" ".join(str(error).split()))[:length] or type(error).__name__
