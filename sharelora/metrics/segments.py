"""The input of every metric of generated text: one hypothesis and its references for each segment of a test set."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from sharelora.metrics.java import TOKENIZER, jar, run
from sharelora.support.errors import UserError
from sharelora.support.files import write_text

Texts = Sequence[str]
References = Sequence[Sequence[str]]


def check(hypotheses: Texts, references: References) -> None:
    """Make sure that a test set can be scored. An empty hypothesis can: it is simply a bad one.

    Args:
        hypotheses: one text per segment.
        references: for each segment the texts that would have been right.

    Raises:
        UserError: no segment at all, another number of hypotheses than of segments, or a segment without any
            reference that has words.
    """
    if len(hypotheses) != len(references):
        raise UserError(
            f"found {len(hypotheses)} hypotheses for {len(references)} lists of references; need one for each; "
            "check that both come from the same test set"
        )
    if not references:
        raise UserError("found no segments; need at least one hypothesis with references; check the files")
    empty = [number for number, texts in enumerate(references, 1) if not any(text.strip() for text in texts)]
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise UserError(
            f"segment {empty[0]}{more} of {len(references)} has no reference with words; need at least one; "
            "check the references"
        )


def with_words(references: References) -> list[list[str]]:
    """Leave out references without words: files of a fixed number of references per segment are filled up with them."""
    return [[text for text in texts if text.strip()] for texts in references]


def as_streams(references: References) -> list[list[str | None]]:
    """Turn references per segment into one list per position, None where a segment has fewer: sacrebleu's form."""
    longest = max(map(len, references))
    return [[texts[place] if place < len(texts) else None for texts in references] for place in range(longest)]


def as_rectangle(references: References) -> list[list[str]]:
    """Fill every segment up to the same number of references with its first: a best match is not changed by that."""
    longest = max(map(len, references))
    return [[*texts, *[texts[0]] * (longest - len(texts))] for texts in references]


# Tokens of the COCO caption code, on which METEOR, ROUGE-L and CIDEr of the E2E challenge are computed.
#
# They are those of Stanford's Penn Treebank tokeniser (CoreNLP 3.4.1) in lower case, without punctuation. `tokenise` is
# a stand-in of a few rules that needs no Java: of the 51,426 references of E2E one gets another token, of LoRA's spaced
# form of them none. On other text it can differ, around abbreviations above all: of the 25,298 of WebNLG 2 % do.


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
