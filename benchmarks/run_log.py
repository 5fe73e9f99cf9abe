"""What a job says while it is one of many runs: into a file instead of the terminal."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def logged(file: Path, mode: str) -> Iterator[None]:
    """Send what the job says, and what it fails with, into a file; warnings that nobody can act on are dropped.

    Args:
        file: the log; its folder is made.
        mode: `w` for a new file, `a` to go on with one.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    logger, handler = logging.getLogger("sharelora"), logging.FileHandler(file, mode=mode, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            # PEFT asks models for an attribute that transformers has renamed since.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            yield
    except Exception:
        logger.exception("the run failed")
        raise
    finally:
        logger.level, logger.propagate = before
        logger.removeHandler(handler)
        handler.close()
