"""BLEU-4 (Papineni et al. 2002) and NIST-5 (Doddington 2002) over a corpus, as mteval-v13a computes them.

These are the E2E challenge's numbers. NIST weights matches of n-grams by how much each tells: the binary logarithm of
how often its beginning occurs in all references of the test set, over how often the whole of it does. Both metrics read
the same tokens. sacrebleu has no NIST, and nltk's does not agree with mteval (6.22 instead of 7.82 on the challenge's
example).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sharelora.metrics.segments import References, Texts, as_streams, check, with_words

# The longest n-grams of NIST.
ORDER = 5
# NIST's length penalty: a text two thirds as long as the references keeps half of its score.
BETA = -math.log(0.5) / math.log(1.5) ** 2

Words = Sequence[str]
Ngram = tuple[str, ...]


def bleu(hypotheses: Texts, references: References) -> float:
    """Return the corpus BLEU: case-insensitive, 13a tokens, the closest reference's length for the brevity penalty.

    An n-gram order without any match counts half of the one before it, as in mteval; sacrebleu's default does the same.

    Args:
        hypotheses: one text per segment.
        references: one or more texts per segment.

    Returns:
        0 to 1.

    Raises:
        UserError: see `segments.check`.
    """
    import sacrebleu

    check(hypotheses, references)
    # None where a segment has fewer references, which sacrebleu takes though it does not say so.
    streams: Any = as_streams(with_words(references))
    # force: no warning about texts that look tokenised, as LoRA's form of E2E does.
    return sacrebleu.corpus_bleu(list(hypotheses), streams, lowercase=True, tokenize="13a", force=True).score / 100


def ngrams(words: Words, order: int) -> Counter[Ngram]:
    """Count the n-grams of one order in a text."""
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


def information(texts: Sequence[Words]) -> dict[Ngram, float]:
    """Return the weight in bits of every n-gram of the references, for orders 1 to 5."""
    counts: dict[Ngram, int] = {(): sum(map(len, texts))}
    for order in range(1, ORDER + 1):
        for text in texts:
            for ngram, count in ngrams(text, order).items():
                counts[ngram] = counts.get(ngram, 0) + count
    return {ngram: math.log2(counts[ngram[:-1]] / count) for ngram, count in counts.items() if ngram}


def length_penalty(words: int, expected: float) -> float:
    """Return 1 for a text that is at least as long as the references, less for a shorter one."""
    ratio = min(1.0, words / expected)
    return math.exp(-BETA * math.log(ratio) ** 2) if ratio else 0.0


def _expected_length(references: Sequence[Sequence[Words]], python: bool) -> float:
    lengths = [[len(text) for text in texts] for texts in references]
    if python:
        return sum(sum(counts) / len(counts) for counts in lengths)
    # mteval: the mean over all references of all segments, so that a segment with many of them counts more.
    return sum(map(sum, lengths)) * len(lengths) / sum(map(len, lengths))


def nist(hypotheses: Texts, references: References, python: bool = False) -> float:
    """Return the NIST score of a test set: 0 or more, without an upper bound.

    Args:
        hypotheses: one text per segment.
        references: one or more texts per segment.
        python: expect of each segment the mean length of its own references, which is what the E2E challenge's script
            does with `-p` (LoRA's recipe); otherwise as its Perl part does (the challenge's own results).

    Raises:
        UserError: see `segments.check`.
    """
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    check(hypotheses, references)
    split = Tokenizer13a()
    words = [split(text.lower()).split() for text in hypotheses]
    right = [[split(text.lower()).split() for text in texts] for texts in with_words(references)]
    penalty = length_penalty(sum(map(len, words)), _expected_length(right, python))
    return penalty * _gain(words, right)


def _gain(words: Sequence[Words], right: Sequence[Sequence[Words]]) -> float:
    """Return the mean information of an n-gram of the hypotheses, summed over the orders."""
    weights = information([text for texts in right for text in texts])
    total = 0.0
    for order in range(1, ORDER + 1):
        gained, count = 0.0, 0
        for text, texts in zip(words, right, strict=True):
            counts, allowed = ngrams(text, order), Counter[Ngram]()
            for other in texts:
                allowed |= ngrams(other, order)
            gained += sum(weights[ngram] * times for ngram, times in (counts & allowed).items())
            count += counts.total()
        total += gained / count if count else 0.0
    return total
