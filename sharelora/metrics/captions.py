"""ROUGE-L and CIDEr-D as the COCO caption code, and with it the E2E challenge, computes them, on its own tokens.

The tokens, on which METEOR of E2E is computed too, are those of Stanford's Penn Treebank tokeniser (CoreNLP 3.4.1) in
lower case, without punctuation. `tokenise` is a stand-in of a few rules that needs no Java: of the 51,426 references of
E2E one gets another token, of LoRA's spaced form of them none. On other text it can differ, around abbreviations above
all: of the 25,298 of WebNLG 2 % do. Both metrics are checked against pycocoevalcap.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharelora.metrics.java import TOKENIZER, jar, one_per_line, run
from sharelora.metrics.mteval import Ngram, ngrams
from sharelora.metrics.segments import References, Texts, check, with_words
from sharelora.support.files import write_text

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
    tokenised = ((SIGNS.get(match[0], match[0]) for match in TOKEN.finditer(text.lower())) for text in texts)
    return [_without_punctuation(tokens) for tokens in tokenised]


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
        write_text(file, one_per_line(texts))
        options = ["-preserveLines", "-lowerCase", "-encoding", "UTF-8", str(file)]
        printed = run("-cp", str(program), "edu.stanford.nlp.process.PTBTokenizer", *options)
    lines = printed.split("\n")[: len(texts)]
    return [_without_punctuation(line.split()) for line in lines]


# Recall weighs the square of this times as much as precision in ROUGE-L.
BETA = 1.2
# Of CIDEr: the longest n-grams, the width in bigrams of the length penalty, and the scale.
ORDER, SIGMA, SCALE = 4, 6.0, 10.0


def common_length(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the longest common subsequence of two lists of words."""
    row = [0] * (len(right) + 1)
    for word in left:
        diagonal = 0
        for column, other in enumerate(right, 1):
            above = row[column]
            row[column] = diagonal + 1 if word == other else max(above, row[column - 1])
            diagonal = above
    return row[-1]


def _segment(words: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    common = [(common_length(words, other), len(other)) for other in references if other]
    recall = max((length / count for length, count in common), default=0.0)
    if not recall:
        return 0.0
    precision = max(length for length, _ in common) / len(words)
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def rouge_l(hypotheses: Texts, references: References) -> float:
    """Return the mean ROUGE-L (Lin 2004) of a test set, 0 to 1.

    Precision and recall of the longest common subsequence are each the best over the references, not of the same one.
    The package rouge_score differs.

    Args:
        hypotheses: one text per segment, tokenised: words with spaces between them, see `tokenise`.
        references: one or more per segment, tokenised the same way.

    Raises:
        UserError: see `segments.check`.
    """
    check(hypotheses, references)
    scores = [
        _segment(text.split(), [other.split() for other in texts])
        for text, texts in zip(hypotheses, references, strict=True)
    ]
    return sum(scores) / len(scores)


@dataclass(frozen=True)
class Vector:
    """A text for CIDEr: per order the weighted counts of its n-grams and their norm, and its length in bigrams."""

    values: tuple[Mapping[Ngram, float], ...]
    norms: tuple[float, ...]
    bigrams: int


def _vector(text: str, rarity: Mapping[Ngram, float], unseen: float) -> Vector:
    counts = [ngrams(text.split(), order) for order in range(1, ORDER + 1)]
    values = tuple({ngram: n * rarity.get(ngram, unseen) for ngram, n in of_order.items()} for of_order in counts)
    norms = tuple(math.sqrt(sum(value**2 for value in of_order.values())) for of_order in values)
    return Vector(values, norms, counts[1].total())


def _rarity(references: References) -> dict[Ngram, float]:
    """Return the logarithm of the inverse share of segments for every n-gram of a reference."""
    frequency: Counter[Ngram] = Counter()
    for texts in references:
        frequency.update(
            {ngram for text in texts for order in range(1, ORDER + 1) for ngram in ngrams(text.split(), order)}
        )
    return {ngram: math.log(len(references) / count) for ngram, count in frequency.items()}


def _similarity(left: Vector, right: Vector) -> float:
    total = 0.0
    for mine, yours, one, other in zip(left.values, right.values, left.norms, right.norms, strict=True):
        if one and other:
            total += sum(min(value, yours[key]) * yours[key] for key, value in mine.items() if key in yours) / (
                one * other
            )
    return total / ORDER * math.exp(-((left.bigrams - right.bigrams) ** 2) / (2 * SIGMA**2))


def cider(hypotheses: Texts, references: References) -> float:
    """Return the mean CIDEr-D (Vedantam et al. 2015) of a test set, 0 to 10; 0 for a single segment, with nothing rare.

    Texts are vectors of n-gram counts, each n-gram weighted by how few segments of the test set have it in a reference.
    The score is the cosine of hypothesis and reference, with the hypothesis's counts cut to the reference's, times a
    penalty for another length; its mean over n = 1 to 4 and all references, times 10.

    Args:
        hypotheses: one text per segment, tokenised: words with spaces between them, see `tokenise`.
        references: one or more per segment, tokenised the same way.

    Raises:
        UserError: see `segments.check`.
    """
    check(hypotheses, references)
    rarity, unseen = _rarity(references), math.log(len(references))
    scores = []
    for text, texts in zip(hypotheses, with_words(references), strict=True):
        hypothesis = _vector(text, rarity, unseen)
        scores.append(_mean([_similarity(hypothesis, _vector(other, rarity, unseen)) for other in texts]))
    return SCALE * _mean(scores)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
