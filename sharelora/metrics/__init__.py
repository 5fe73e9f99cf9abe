"""Scores: pure functions on lists.

May import: data (tables of tasks), support. Begin with `accuracy`, or with `nlg` for generated text.
"""

from __future__ import annotations

from pathlib import Path


def modules_folder() -> Path:
    """The folder of the scores as modules of `evaluate`: `evaluate.load(str(modules_folder() / "glue"), "mrpc")`."""
    return Path(__file__).parent / "modules"
