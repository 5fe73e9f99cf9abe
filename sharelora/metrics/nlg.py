"""All metrics of a task of generated text at once, by the names and on the scales of the official scripts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from sharelora.metrics import java
from sharelora.metrics.captions import cider, rouge_l, tokenise, tokenise_with_java
from sharelora.metrics.java import meteor
from sharelora.metrics.mteval import bleu, nist
from sharelora.metrics.segments import References, Texts, check
from sharelora.metrics.ter import ter
from sharelora.support.errors import UserError

# Hypotheses and references, each text as tokens with a space between them.
Tokenised = tuple[list[str], list[list[str]]]


@dataclass(frozen=True)
class Segments:
    """Hypotheses and references, as they are and in the tokens that a metric wants.

    Args:
        hypotheses: one text per segment.
        references: one or more texts per segment.
        python: NIST as the E2E script computes it with `-p`.
        with_java: take Stanford's own tokeniser for the caption metrics.
    """

    hypotheses: Texts
    references: References
    python: bool = False
    with_java: bool = False

    def _split(self, tokenise: Callable[[Sequence[str]], list[str]]) -> Tokenised:
        # One call for all texts: the tokeniser may be a program that takes seconds to start.
        tokens = iter(tokenise([*self.hypotheses, *(text for texts in self.references for text in texts)]))
        mine = [next(tokens) for _ in self.hypotheses]
        return mine, [[next(tokens) for _ in texts] for texts in self.references]

    @cached_property
    def captions(self) -> Tokenised:
        """Tokens of the COCO caption code: lower case, without punctuation."""
        return self._split(tokenise_with_java if self.with_java else tokenise)

    @cached_property
    def words(self) -> Tokenised:
        """Tokens of LoRA's `--tokenize --lower`: lower case, every punctuation mark by itself."""
        return self._split(lambda texts: [plain(text) for text in texts])


def plain(text: str) -> str:
    """Lower-case a text and put one space between words and punctuation marks; doing it twice changes nothing."""
    return " ".join(re.findall(r"\w+|[^\w\s]", text.lower()))


Score = Callable[[Segments], float]
E2E: Mapping[str, Score] = {
    "BLEU": lambda segments: bleu(segments.hypotheses, segments.references),
    "NIST": lambda segments: nist(segments.hypotheses, segments.references, segments.python),
    "METEOR": lambda segments: meteor(*segments.captions),
    "ROUGE_L": lambda segments: rouge_l(*segments.captions),
    "CIDEr": lambda segments: cider(*segments.captions),
}
WEBNLG: Mapping[str, Score] = {
    "BLEU": lambda segments: bleu(*segments.words),
    "METEOR": lambda segments: meteor(*segments.words),
    "TER": lambda segments: ter(*segments.words),
}
# Where a smaller value is the better one.
LOWER_IS_BETTER = ("TER",)


def chosen(metrics: Mapping[str, Score], without: Sequence[str] = ()) -> dict[str, Score]:
    """Return the metrics that are left when some are left out, whatever the case of their names.

    Raises:
        UserError: an unknown metric, or none is left.
    """
    known = {name.lower(): name for name in metrics}
    unknown = [name for name in without if name.lower() not in known]
    if unknown:
        raise UserError(f"found metric {unknown[0]}; need one of {', '.join(metrics)}; change the name")
    left = {name: score for name, score in metrics.items() if name.lower() not in {item.lower() for item in without}}
    if not left:
        raise UserError(f"all of {', '.join(metrics)} are left out; need at least one; leave out fewer")
    return left


def _scores(metrics: Mapping[str, Score], segments: Segments, without: Sequence[str]) -> dict[str, float]:
    check(segments.hypotheses, segments.references)
    left = chosen(metrics, without)
    if "METEOR" in left:
        # Before the others are computed: a missing program should be reported at once.
        java.jar(java.METEOR)
    return {name: score(segments) for name, score in left.items()}


def score_e2e(
    hypotheses: Texts, references: References, without: Sequence[str] = (), python: bool = False
) -> dict[str, float]:
    """Score a test set as the E2E challenge's script does.

    ROUGE-L and CIDEr need Stanford's tokeniser: the program itself where METEOR is asked for, which needs Java anyhow,
    and otherwise our own rules, which give the same tokens on the references of E2E (see `captions.tokenise`).

    Args:
        hypotheses: one text per distinct input.
        references: all texts that people wrote for it.
        without: names of metrics to leave out, for instance `METEOR` where there is no Java.
        python: NIST as with the script's `-p`, which LoRA's recipe uses.

    Returns:
        `BLEU` (0 to 1), `NIST`, `METEOR` (0 to 1), `ROUGE_L` (0 to 1), `CIDEr` (0 to 10), as far as asked for.

    Raises:
        UserError: nothing to score, different counts, a segment without references, or no Java for METEOR.
    """
    with_java = "METEOR" in chosen(E2E, without)
    return _scores(E2E, Segments(hypotheses, references, python, with_java), without)


def score_webnlg(hypotheses: Texts, references: References, without: Sequence[str] = ()) -> dict[str, float]:
    """Score a test set of WebNLG or DART as LoRA's recipe does: lower-cased, split at every punctuation mark.

    Args:
        hypotheses: one text per distinct input.
        references: all texts that people wrote for it; LoRA's recipe keeps at most six.
        without: names of metrics to leave out, for instance `METEOR` where there is no Java.

    Returns:
        `BLEU` (0 to 1), `METEOR` (0 to 1), `TER` (0 is best), as far as asked for.

    Raises:
        UserError: nothing to score, different counts, a segment without references, or no Java for METEOR.
    """
    return _scores(WEBNLG, Segments(hypotheses, references), without)
