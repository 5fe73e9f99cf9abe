"""Small data-to-text rows in every published form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

E2E_CSV = (
    'mr,ref\r\n"name[Blue Spice], eatType[pub], priceRange[less than £20]","Blue Spice isn\'t dear, it\'s a pub."\r\n'
    '"name[Blue Spice], eatType[pub], priceRange[less than £20]",A pub for families.\r\n'
    '"name[Cotto], familyFriendly[no]","Cotto, by the river, is not family-friendly."\r\n'
)
E2E_TEXT = (
    "name : Blue Spice | Type : pub | price : less than £ 20||Blue Spice is n't dear , it 's a pub . \n"
    "name : Blue Spice | Type : pub | price : less than £ 20||A pub for families . \n"
    "name : Cotto | family friendly : no||Cotto , by the river , is not family - friendly . \n"
)
E2E = [tuple(line.strip().split("||")) for line in E2E_TEXT.splitlines()]

TRIPLES = [["Aarhus_Airport", "cityServed", '"Aarhus, Denmark"'], ["Aarhus", "leaderName", "Jacob"]]
CONTEXT = 'Aarhus_Airport : cityServed : "Aarhus, Denmark" | Aarhus : leaderName : Jacob'
TEXTS = ["Aarhus Airport serves Aarhus.", "Jacob leads Aarhus."]
WEBNLG_LINE: dict[str, Any] = {
    "category": "Airport",
    "eid": "Id1",
    "triples": TRIPLES,
    "lex": [TEXTS[0], "a bad one", TEXTS[1]],
    "lex_comment": ["good", "toFix", "good"],
}
WEBNLG_ENTRIES: dict[str, Any] = {
    "entries": [
        {
            "1": {
                "category": "Airport",
                "modifiedtripleset": [dict(zip(("subject", "property", "object"), t, strict=True)) for t in TRIPLES],
                "lexicalisations": [
                    {"comment": comment, "lex": text}
                    for text, comment in zip(WEBNLG_LINE["lex"], WEBNLG_LINE["lex_comment"], strict=True)
                ],
            }
        }
    ]
}
WEBNLG_XML = """<?xml version="1.0" ?>
<benchmark><entries>
<entry category="Airport" eid="Id1" size="2">
<originaltripleset><otriple>x | y | z</otriple></originaltripleset>
<modifiedtripleset>
<mtriple>Aarhus_Airport | cityServed | "Aarhus, Denmark"</mtriple><mtriple>Aarhus | leaderName | Jacob</mtriple>
</modifiedtripleset>
<lex comment="good" lid="Id1">Aarhus Airport serves Aarhus.</lex>
<lex comment="toFix" lid="Id2">a bad one</lex>
<lex comment="good" lid="Id3">Jacob leads Aarhus.</lex>
</entry></entries></benchmark>
"""
WEBNLG_HUB: dict[str, Any] = {
    "category": "Airport",
    "modified_triple_sets": {"mtriple_set": [[" | ".join(triple) for triple in TRIPLES]]},
    "lex": {"text": WEBNLG_LINE["lex"], "comment": WEBNLG_LINE["lex_comment"]},
}
DART: dict[str, Any] = {
    "tripleset": [["Mars Hill", "JOINED", "1973"]],
    "annotations": [{"source": "x", "text": "Mars Hill joined in 1973."}, {"source": "x", "text": "In 1973 ..."}],
}


def write_json(path: Path, value: Any) -> Path:
    """Write a value as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_text(path: Path, text: str) -> Path:
    """Write text with its line ends as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path
