"""BLEU-4 over a corpus (Papineni et al. 2002) as mteval-v13a computes it: the E2E challenge's number, 0 to 1."""

from __future__ import annotations

from typing import Any

from sharelora.metrics.segments import References, Texts, as_streams, check, with_words


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
    found = sacrebleu.corpus_bleu(list(hypotheses), streams, lowercase=True, tokenize="13a", force=True)
    return found.score / 100
