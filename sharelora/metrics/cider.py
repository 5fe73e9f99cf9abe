"""CIDEr-D (Vedantam et al. 2015) as the COCO caption code, and with it the E2E challenge, computes it.

Texts are vectors of n-gram counts, each n-gram weighted by how few segments of this test set have it in a reference.
The score is the cosine of hypothesis and reference, with the hypothesis's counts cut to the reference's, times a
penalty for another length; its mean over n = 1 to 4 and all references, times 10. Checked against pycocoevalcap.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sharelora.metrics.nist import Ngram, ngrams
from sharelora.metrics.segments import References, Texts, check, with_words

ORDER = 4
SIGMA = 6.0
SCALE = 10.0


@dataclass(frozen=True)
class Vector:
    """A text: per order the weighted counts of its n-grams and their norm, and its length in bigrams."""

    values: tuple[Mapping[Ngram, float], ...]
    norms: tuple[float, ...]
    bigrams: int


def _vector(text: str, rarity: Mapping[Ngram, float], unseen: float) -> Vector:
    counts = [ngrams(text.split(), order) for order in range(1, ORDER + 1)]
    values = tuple({ngram: count * rarity.get(ngram, unseen) for ngram, count in found.items()} for found in counts)
    norms = tuple(math.sqrt(sum(value**2 for value in found.values())) for found in values)
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
    """Return the mean CIDEr of a test set, 0 to 10; that of a single segment is 0, as nothing in it is rare.

    Args:
        hypotheses: one text per segment, tokenised: words with spaces between them, see `ptb`.
        references: one or more per segment, tokenised likewise.

    Raises:
        UserError: see `segments.check`.
    """
    check(hypotheses, references)
    rarity, unseen = _rarity(references), math.log(len(references))
    scores = []
    for text, texts in zip(hypotheses, with_words(references), strict=True):
        found = _vector(text, rarity, unseen)
        scores.append(_mean([_similarity(found, _vector(other, rarity, unseen)) for other in texts]))
    return SCALE * _mean(scores)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
