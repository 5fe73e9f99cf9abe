"""WebNLG 2017 in every form that it is published in: the official XML, lines of JSON, LoRA's json, the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from sharelora.data.nlg.linearise import linearise_triples
from sharelora.data.nlg.records import Record
from sharelora.data.rows import BadCell, Row, read_text, summary
from sharelora.support.errors import UserError

# The categories of the training set; the test set has five more.
SEEN = frozenset(
    "Airport Astronaut Building City ComicsCharacter Food Monument SportsTeam University WrittenWork".split()
)
GOOD = "good"  # the comment on texts that were checked; LoRA leaves out the others
# The official folder of the test set also has files with a part of its entries, or without texts.
WHOLE_TEST = "testdata_with_lex.xml"
_TRIPLES = "modifiedtripleset"


def entry_records(
    category: Any, triples: Sequence[Any], texts: Sequence[Any], comments: Sequence[Any], need_text: bool
) -> Iterator[Record]:
    """Make a record for every checked text of an entry; none if there are texts but none of them was checked.

    Args:
        category: the entry's category.
        triples: subject, property and object of each.
        texts: its texts.
        comments: a remark on each text, `good` for one that was checked.
        need_text: an entry without any text is an error; otherwise it is one record without a text.

    Raises:
        BadCell: something is missing or of another kind.
    """
    if not isinstance(category, str):
        raise BadCell(f"{summary(category, 40)} as category where a name is needed")
    if len(comments) != len(texts):
        raise BadCell(f"{len(texts)} texts and {len(comments)} comments on them")
    if not texts and need_text:
        raise BadCell("no text")
    context = linearise_triples(triples)
    for text, comment in zip(texts, comments, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise BadCell("an empty text")
        if comment == GOOD:
            yield Record(context, text.strip(), category in SEEN)
    if not texts:
        yield Record(context, "", category in SEEN)


def from_line(row: Row, need_text: bool) -> Iterator[Record]:
    """Read `{"category", "triples": [[s, p, o]], "lex": [...], "lex_comment": [...]}`."""
    texts = _listed(row, "lex") if need_text or row.get("lex") else []
    comments = row.get("lex_comment") or [GOOD] * len(texts)
    return entry_records(row["category"], _listed(row, "triples"), texts, comments, need_text)


def from_hub_row(row: Row, need_text: bool) -> Iterator[Record]:
    """Read a row of the hub's `web_nlg`: triples as text, lists within objects."""
    lex = row.get("lex") or {}
    sets = (row["modified_triple_sets"] or {}).get("mtriple_set") or [[]]
    triples = [split_triple(triple) for triple in sets[0]]
    return entry_records(row["category"], triples, lex.get("text", []), lex.get("comment", []), need_text)


def from_entries(row: Row, need_text: bool) -> Iterator[Record]:
    """Read the one object of LoRA's json, with each entry under its number."""
    for number, numbered in enumerate(_listed(row, "entries"), 1):
        try:
            entry = numbered[str(number)]
            triples = [[triple[part] for part in ("subject", "property", "object")] for triple in entry[_TRIPLES]]
            lex = entry["lexicalisations"]
            texts, comments = [text["lex"] for text in lex], [text["comment"] for text in lex]
            yield from entry_records(entry["category"], triples, texts, comments, need_text)
        except (KeyError, TypeError) as error:
            raise BadCell(f"an entry {number} of another form (no {error})") from error
        except BadCell as error:
            raise BadCell(f"{error} in entry {number}") from error


def _listed(row: Mapping[str, Any], column: str) -> list[Any]:
    if not isinstance(row.get(column), list):
        raise BadCell(f"no list in column {column}")
    return list(row[column])


def split_triple(text: str) -> list[str]:
    """Take apart a triple as WebNLG writes it, `subject | property | object`."""
    return [part.strip() for part in text.split(" | ")]


def xml_files(folder: Path) -> list[Path]:
    """The XML files of a split, in the order of their names; of the official test set the one that has all entries."""
    files = sorted(folder.rglob("*.xml"))
    whole = [file for file in files if file.name == WHOLE_TEST]
    return whole or files


def read_xml(path: Path, need_text: bool) -> Iterator[Record]:
    """Read an official file.

    Raises:
        UserError: not WebNLG's XML, or an entry is malformed; the entry is named.
    """
    try:
        root = ElementTree.fromstring(read_text(path))
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is not valid XML ({error}); need an XML file of WebNLG; copy it again") from error
    entries = list(root.iter("entry"))
    if not entries:
        raise UserError(f"{path} has no <entry>; need an XML file of WebNLG; check the file")
    for entry in entries:
        triples = [split_triple(triple.text or "") for triple in entry.iterfind(f"{_TRIPLES}/mtriple")]
        lex = entry.findall("lex")
        comments = [text.get("comment", GOOD) for text in lex]
        try:
            yield from entry_records(entry.get("category"), triples, [text.text for text in lex], comments, need_text)
        except BadCell as error:
            raise UserError(f"{path} entry {entry.get('eid')} has {error}; repair or remove it") from error
