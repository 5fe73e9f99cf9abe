"""Meaning representations and triples as one line of text, in the form of LoRA's conversion scripts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from sharelora.data.cells import BadCell, summary
from sharelora.data.nlg.spacing import spaced

# E2E's names of attributes that LoRA's files write otherwise; any other name stays.
ATTRIBUTES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}
_ATTRIBUTE = re.compile(r"\s*([^\[\],]+)\[([^\[\]]+)\]\s*(?:,|$)")


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
        found = _ATTRIBUTE.match(meaning, position)
        if found is None:
            raise BadCell(f"no attribute[value] at {summary(meaning[position:], 40)!r}")
        name = found[1].strip()
        parts.append(f"{ATTRIBUTES.get(name, name)} : {spaced(found[2])}")
        position = found.end()
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
