"""METEOR 1.5 (Denkowski and Lavie 2014), English, by its authors' Java program: no other implementation agrees with it.

It aligns words that are equal, or equal in stem, meaning (WordNet) or as paraphrases (a table of 60 MB).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sharelora.metrics.java import METEOR, jar, run
from sharelora.metrics.segments import References, Texts, as_rectangle, check, with_words
from sharelora.support.errors import UserError
from sharelora.support.files import write_text


def meteor(hypotheses: Texts, references: References) -> float:
    """Return the METEOR of a test set, 0 to 1, from the statistics of all segments together.

    Args:
        hypotheses: one text per segment, tokenised: words with spaces between them.
        references: one or more per segment, tokenised likewise.

    Raises:
        UserError: see `segments.check`; or Java or its program is missing, with what to install.
    """
    check(hypotheses, references)
    program = jar(METEOR)
    rows = as_rectangle(with_words(references))
    with tempfile.TemporaryDirectory() as folder:
        mine, theirs = Path(folder) / "hypotheses", Path(folder) / "references"
        write_text(mine, _lines(hypotheses))
        write_text(theirs, _lines([text for texts in rows for text in texts]))
        words = [str(mine), str(theirs), "-l", "en", "-norm", "-r", str(len(rows[0]))]
        printed = run("-jar", str(program), *words)
    found = re.search(r"^Final score:\s*(\S+)", printed, re.MULTILINE)
    if found is None:
        last = (printed.strip().splitlines() or ["nothing"])[-1]
        raise UserError(f"METEOR printed {last!r} and no final score; need version 1.5; check {program}")
    return float(found[1])


def _lines(texts: Sequence[str]) -> str:
    """One text per line, whatever breaks of lines it holds."""
    return "".join(" ".join(text.split()) + "\n" for text in texts)
