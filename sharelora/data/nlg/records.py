"""Rows of data-to-text sets, an input and a text for it, and the references of each distinct input."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sharelora.support.errors import UserError


@dataclass(frozen=True)
class Record:
    """One row.

    Args:
        context: the input as one line: `name : Blue Spice | Type : coffee shop`.
        completion: a text for it; empty where a file has only inputs.
        seen: whether the category is one of the training set (WebNLG); None where a set does not say.
    """

    context: str
    completion: str
    seen: bool | None = None


@dataclass(frozen=True)
class Group:
    """All rows of one distinct input.

    Args:
        context: the input.
        references: its texts, in the order of the rows; empty where the rows have none.
        seen: as in `Record`.
        rows: indices of the records.
    """

    context: str
    references: list[str]
    seen: bool | None
    rows: list[int]


def grouped(records: Iterable[Record]) -> list[Group]:
    """Collect the rows of each distinct input, the inputs in the order in which they are first seen.

    E2E's test set has 4,693 rows and 630 inputs: each needs to be decoded once only.

    Raises:
        UserError: an input that has a text in one row and none in another.
    """
    groups: dict[str, Group] = {}
    for index, record in enumerate(records):
        group = groups.setdefault(record.context, Group(record.context, [], record.seen, []))
        group.rows.append(index)
        group.references.extend([record.completion] if record.completion else [])
    for group in groups.values():
        if group.references and len(group.references) < len(group.rows):
            raise UserError(
                f"row {group.rows[0] + 1} and others have the input {group.context[:60]!r}, {len(group.rows)} rows "
                f"with {len(group.references)} texts; need a text in each or in none; repair the file"
            )
    return list(groups.values())
