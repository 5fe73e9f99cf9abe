"""ROUGE-L (Lin 2004) as the COCO caption code, and with it the E2E challenge, computes it.

Precision and recall of the longest common subsequence are each the best over the references, not of the same one, and
recall weighs 1.2 squared times as much. Checked against pycocoevalcap; the package rouge_score differs.
"""

from __future__ import annotations

from collections.abc import Sequence

from sharelora.metrics.segments import References, Texts, check

BETA = 1.2


def common_length(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the longest common subsequence of two lists of words."""
    row = [0] * (len(right) + 1)
    for word in left:
        diagonal = 0
        for place, other in enumerate(right, 1):
            above = row[place]
            row[place] = diagonal + 1 if word == other else max(above, row[place - 1])
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
    """Return the mean ROUGE-L of a test set, 0 to 1.

    Args:
        hypotheses: one text per segment, tokenised: words with spaces between them, see `ptb`.
        references: one or more per segment, tokenised likewise.

    Raises:
        UserError: see `segments.check`.
    """
    check(hypotheses, references)
    scores = [
        _segment(text.split(), [other.split() for other in texts])
        for text, texts in zip(hypotheses, references, strict=True)
    ]
    return sum(scores) / len(scores)
