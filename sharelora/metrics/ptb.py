"""Tokens of the COCO caption code, on which METEOR, ROUGE-L and CIDEr of the E2E challenge are computed.

They are those of Stanford's Penn Treebank tokeniser (CoreNLP 3.4.1) in lower case, without punctuation. `tokenise` is a
stand-in of a few rules that needs no Java: of the 51,426 references of E2E one gets another token, of LoRA's spaced
form of them none. On other text it can differ, around abbreviations above all: of the 25,298 of WebNLG 2 % do.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from sharelora.files import write_text
from sharelora.metrics.java import TOKENIZER, jar, run

# What the caption code leaves out. It means brackets too, but looks for them in upper case and finds none.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
# How the Penn Treebank writes signs.
SIGNS = {
    "£": "#",
    "€": "$",
    "&amp;": "&",
    "/": "\\/",
    "*": "\\*",
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
    '"': "``",
    "\u201c": "``",  # quotation marks
    "\u201d": "''",
    "\u2018": "`",
    "\u2019": "'",
    "\u2026": "...",
    "\u2013": "--",  # dashes
    "\u2014": "--",
}
TOKEN = re.compile(
    r"""
    (?:mr|mrs|ms|dr|st|rd|ave|jr|sr|vs|etc|inc|ltd|co|corp|gen|prof|rev|gov|sen|rep|dept|approx)\.(?=\W|$)
  | \w+\.(?=,)                              # before a comma, a point ends an abbreviation
  | (?:[a-z]\.){2,}                         # u.s.
  | \b[a-z]\.(?=\s+\S)                      # an initial, but not at the end
  | \w+?(?=n['\u2019]t\b) | n['\u2019]t\b             # do n't
  | can(?=not\b)
  | ['\u2019](?:s|re|ve|ll|d|m)\b
  | [dlo]['\u2019][a-z]\w+                       # d'oeuvres
  | \d+(?:/\d+)+\b
  | [a-z]+,[a-z]+-[a-z]+                    # a comma without a space before a compound
  | [+-]?(?<!\w)\d+(?:[.,:]\d+)+(?:-?\w+)*
  | (?<![\w.])[+-]\d+\b(?:-\w+)*
  | (?<=[a-z])\.\d+\b
  | \d\w*(?:[-&_/]\w+)*                     # 5-star
  | \w+(?:[-&_/]\w+|\.[a-z]\w*)*            # family-friendly, and/or, centre.it
  | \.{3} | --+ | &amp; | \S
    """,
    re.VERBOSE,
)


def _without_punctuation(tokens: Iterable[str]) -> str:
    return " ".join(token for token in tokens if token not in PUNCTUATION)


def tokenise(texts: Sequence[str]) -> list[str]:
    """Tokenise texts by our own rules.

    Returns:
        The tokens of each text with a space between them.
    """
    found = ((SIGNS.get(match[0], match[0]) for match in TOKEN.finditer(text.lower())) for text in texts)
    return [_without_punctuation(tokens) for tokens in found]


def tokenise_with_java(texts: Sequence[str]) -> list[str]:
    """Tokenise texts by Stanford's program.

    Returns:
        The tokens of each text with a space between them.

    Raises:
        UserError: Java or the program is missing, with what to install.
    """
    program = jar(TOKENIZER)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts"
        write_text(file, "".join(" ".join(text.split()) + "\n" for text in texts))
        options = ["-preserveLines", "-lowerCase", "-encoding", "UTF-8", str(file)]
        printed = run("-cp", str(program), "edu.stanford.nlp.process.PTBTokenizer", *options)
    lines = printed.split("\n")[: len(texts)]
    return [_without_punctuation(line.split()) for line in lines]
