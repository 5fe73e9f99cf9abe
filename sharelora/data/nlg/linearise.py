"""Meaning representations, triples and texts in the form of LoRA's conversion scripts.

Its files of E2E (`mr||ref`, one line per reference) have words and punctuation apart by spaces: `The Mill 's food is
family - friendly .` They are the official csv after a tokeniser that behaves like spaCy's English rules. Those of its
rules that occur in E2E are written down here, so that training on the official csv is training on the same text. LoRA's
`test.txt` is reproduced in every line. Its `valid.txt` was made by another tokeniser (`isn 't` for `is n't`, `5 - star`
for `5-star`) and differs in 70 of 4,672 lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from sharelora.data.rows import BadCell, summary

# E2E's names of attributes -> those of LoRA's files, where they differ.
ATTRIBUTES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}
_ATTRIBUTE = re.compile(r"([^\[\],]+)\[([^\[\]]+)\]\s*(?:,|$)")


def linearise_mr(meaning: str) -> str:
    """Write an E2E meaning representation as LoRA's files do.

    Args:
        meaning: `name[Blue Spice], eatType[pub], priceRange[less than £20]`.

    Returns:
        `name : Blue Spice | Type : pub | price : less than £ 20`.

    Raises:
        BadCell: another form.
    """
    parts, position = [], 0
    while position < len(meaning):
        match = _ATTRIBUTE.match(meaning, position)
        if match is None:
            raise BadCell(f"no attribute[value] at {summary(meaning[position:], 40)!r}")
        name = match[1].strip()
        parts.append(f"{ATTRIBUTES.get(name, name)} : {spaced(match[2])}")
        position = match.end()
    return " | ".join(parts)


def linearise_triples(triples: Iterable[Any]) -> str:
    """Write triples as `subject : property : object | ...`.

    Raises:
        BadCell: none, or one that is not three texts.
    """
    lines = []
    for triple in triples:
        if not isinstance(triple, list | tuple) or len(triple) != 3:
            raise BadCell(f"{summary(triple, 40)} where a triple of subject, property and object is needed")
        if not all(isinstance(part, str) and part.strip() for part in triple):
            raise BadCell(f"the triple {summary(triple, 40)} without a text in each part")
        lines.append(" : ".join(triple))
    if not lines:
        raise BadCell("no triples")
    return " | ".join(lines)


# Straight and curly quotes; hyphen, en dash, em dash.
_QUOTE, _DASH, _LETTER = "\"'“”\u2018\u2019", "\\-\u2013—~", r"[^\W\d_]"
_PREFIX = re.compile(rf"\.\.+|…|[{_QUOTE}(\[{{£$€,;:!?#*&<>]")
_SUFFIX = re.compile(
    r"(?:['\u2019](?:[sS]|ll|re|ve|d|m)"  # the ends of it's, they'll, we're, I've, he'd, I'm
    rf"|\.\.+|…|[{_QUOTE})\]}},;:!?*&<>]"
    # A full stop ends a word in lower case or a number, and a word in capitals but not an initial.
    rf"|(?<=[0-9a-zà-ÿ%²+\-{_QUOTE})])\.|(?<=[A-Z][A-Z])\."
    r"|(?<=[0-9])[£$€])$"
)
_INFIX = re.compile(
    rf"(\.\.+|…|(?<={_LETTER})[{_DASH}](?={_LETTER})|(?<=[0-9])[-+*^](?=[0-9-])|(?<={_LETTER}),(?={_LETTER})"
    rf"|(?<=[a-zà-ÿ])\.(?=[A-Z])|(?<=[^\W_])[:<>=/](?={_LETTER}))"
)
_NOT = re.compile(
    r"(ai|are|ca|could|did|do|does|had|has|have|is|must|need|should|was|were|wo|would)(n['\u2019]t)", re.I
)
_END = re.compile(r"(?:['\u2019](?:s|ll|re|ve|d|m)|n['\u2019]t)", re.I)
_LONGEST = 1000  # characters of a word; what is longer stays as it is
_RUN_TOGETHER = {"thats": "that s", "Thats": "That s", "dont": "do nt", "Dont": "Do nt"}


def spaced(text: str) -> str:
    """Put single spaces between words and punctuation.

    Args:
        text: one or more sentences.

    Returns:
        The same characters, besides white space, in the same order.
    """
    return " ".join(_spaced_chunk(chunk) for chunk in text.split())


# Texts of one set have few different words.
@lru_cache(maxsize=1 << 16)
def _spaced_chunk(chunk: str) -> str:
    return " ".join(_pieces(chunk))


def _pieces(chunk: str) -> Iterator[str]:
    """Take punctuation off both ends of a chunk without white space, then cut what is left."""
    tail: list[str] = []
    if len(chunk) > _LONGEST:
        yield chunk
        return
    while chunk:
        whole = _whole(chunk)
        if whole is not None:
            yield whole
            break
        if match := _PREFIX.match(chunk):
            yield match[0]
            chunk = chunk[match.end() :]
        elif match := _SUFFIX.search(chunk):
            tail.append(match[0])
            chunk = chunk[: match.start()]
        else:
            yield from (piece for piece in _INFIX.split(chunk) if piece)
            break
    yield from reversed(tail)


def _whole(chunk: str) -> str | None:
    """A contraction in its parts, or the end of one as it is; None for any other word."""
    if _END.fullmatch(chunk):
        return chunk
    match = _NOT.fullmatch(chunk)
    return f"{match[1]} {match[2]}" if match else _RUN_TOGETHER.get(chunk)
