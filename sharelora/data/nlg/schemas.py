"""The schemas in which rows are published, recognised by their columns: a new one is a new entry of `SCHEMAS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharelora.data.nlg import webnlg
from sharelora.data.nlg.linearise import linearise_mr, linearise_triples, spaced
from sharelora.data.nlg.records import Record
from sharelora.data.rows import BadCell, Row, cell, columns_of, missing, place, summary
from sharelora.support.errors import UserError

Read = Callable[[Row, bool], Iterator[Record]]


@dataclass(frozen=True)
class Schema:
    """The columns that a row has, and how it is read.

    Args:
        name: what it is called in messages.
        columns: by which it is recognised.
        text: the column of the texts.
        read: row, whether texts are needed -> records; raises `BadCell`.
    """

    name: str
    columns: tuple[str, ...]
    text: str
    read: Read

    def expected(self, need_text: bool) -> str:
        """What a row has to have, for messages."""
        return f"{self.name} ({'+'.join((*self.columns, self.text) if need_text else self.columns)})"


def text_in(row: Row, column: str, needed: bool = True) -> str:
    """A text of a row, without white space around it; empty if it is missing and not needed.

    Raises:
        BadCell: it is needed, and missing or empty; or it is not text.
    """
    if not needed and missing(row.get(column)):
        return ""
    text = cell(row, column).strip()
    if needed and not text:
        raise BadCell(f"an empty text in column {column}")
    return text


def _formatted(row: Row, need_text: bool) -> Iterator[Record]:
    seen = row.get("cate")
    if seen is not None and not isinstance(seen, bool):
        raise BadCell(f"{summary(seen, 40)!r} in column cate where true or false is needed")
    yield Record(text_in(row, "context"), text_in(row, "completion", need_text), seen)


def _e2e(meaning: str, text: str) -> Read:
    def read(row: Row, need_text: bool) -> Iterator[Record]:
        yield Record(linearise_mr(text_in(row, meaning)), spaced(text_in(row, text, need_text)))

    return read


def _dart(row: Row, need_text: bool) -> Iterator[Record]:
    context = linearise_triples(_lowered(triple) for triple in row["tripleset"] or [])
    notes = row.get("annotations") or []
    # The hub turns a list of objects into an object of lists.
    texts = notes.get("text", []) if isinstance(notes, Mapping) else [_text_of(note) for note in notes]
    if need_text and not texts:
        raise BadCell("no text in column annotations")
    for text in texts or [""]:
        yield Record(context, text_in({"annotations": text}, "annotations", need_text))


def _lowered(triple: Any) -> Any:
    """LoRA writes DART's properties in lower case."""
    if isinstance(triple, list) and len(triple) == 3 and isinstance(triple[1], str):
        return [triple[0], triple[1].lower(), triple[2]]
    return triple


def _text_of(note: Any) -> Any:
    if not isinstance(note, Mapping) or "text" not in note:
        raise BadCell(f"{summary(note, 40)!r} in column annotations where an object with a text is needed")
    return note["text"]


_HUB = ("meaning_representation", "human_reference")

SCHEMAS: tuple[Schema, ...] = (
    Schema("formatted rows", ("context",), "completion", _formatted),
    Schema("E2E", ("mr",), "ref", _e2e("mr", "ref")),
    Schema("E2E inputs", ("MR",), "ref", _e2e("MR", "ref")),
    Schema("E2E of the hub", _HUB[:1], _HUB[1], _e2e(*_HUB)),
    Schema("WebNLG", ("category", "triples"), "lex", webnlg.from_line),
    Schema("WebNLG of the hub", ("category", "modified_triple_sets"), "lex", webnlg.from_hub_row),
    Schema("WebNLG of LoRA", ("entries",), "entries", webnlg.from_entries),
    Schema("DART", ("tripleset",), "annotations", _dart),
)


def schema_of(columns: Sequence[str], origin: str) -> Schema:
    """Recognise a schema by its columns.

    Args:
        columns: the columns of the first row.
        origin: the file, for messages.

    Raises:
        UserError: no schema has them.
    """
    for schema in SCHEMAS:
        if set(schema.columns) <= set(columns):
            return schema
    ways = ", ".join(schema.expected(True) for schema in SCHEMAS)
    raise UserError(f"{origin} has the columns {', '.join(map(str, columns))}; need one of {ways}; convert it")


def records_of(rows: Sequence[Row], origin: str, need_text: bool = True) -> list[Record]:
    """Read rows of any schema.

    Args:
        rows: rows as read from a file or the hub.
        origin: where they are from, for messages.
        need_text: every row must have a text.

    Raises:
        UserError: an unknown schema, or a row that does not fit it; the row is named.
    """
    schema = schema_of(columns_of(rows), origin)
    records: list[Record] = []
    for number, row in enumerate(rows, 1):
        try:
            records.extend(schema.read(row, need_text))
        # A list where text is needed, or the other way round, fails where it is used.
        except (BadCell, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            fault = str(error) if isinstance(error, BadCell) else f"another form ({type(error).__name__}: {error})"
            fault = f"no column {error}" if isinstance(error, KeyError) else fault
            where = place(row, number, origin)
            raise UserError(f"{where} has {fault}; need {schema.expected(need_text)}; repair it") from error
    return records
