"""The input of every metric of generated text: one hypothesis and its references for each segment of a test set."""

from __future__ import annotations

from collections.abc import Sequence

from sharelora.support.errors import UserError

Texts = Sequence[str]
References = Sequence[Sequence[str]]


def check(hypotheses: Texts, references: References) -> None:
    """Make sure that a test set can be scored; an empty hypothesis is allowed, and simply bad.

    Args:
        hypotheses: one text per segment.
        references: for each segment the texts that would have been right.

    Raises:
        UserError: no segment, another number of hypotheses than of segments, or a segment without any
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
    return [[texts[position] if position < len(texts) else None for texts in references] for position in range(longest)]


def as_rectangle(references: References) -> list[list[str]]:
    """Fill every segment up to the same number of references with its first: a best match is not changed by that."""
    longest = max(map(len, references))
    return [[*texts, *[texts[0]] * (longest - len(texts))] for texts in references]
