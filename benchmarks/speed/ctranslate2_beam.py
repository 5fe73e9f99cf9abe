"""CTranslate2 in a folder of its own: the library that decodes models such as GPT-2 fastest elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.harness.packages import unpack

REQUIREMENT = "ctranslate2==4.8.5"


def make_importable(folder: Path) -> None:
    """Let the package be imported from a folder, into which it is unpacked once.

    Raises:
        UserError: the package index is out of reach.
    """
    if not folder.is_dir():
        unpack([REQUIREMENT], folder)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
