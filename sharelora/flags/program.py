"""Starting a command: its flags, its log, and signals that end it cleanly."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

A = TypeVar("A")


def start(parse: Callable[[], A], run: Callable[[A], Any] | str) -> None:
    """Parse the command line and run; the first process alone logs.

    Args:
        parse: reads the process's command line.
        run: the job, or the module whose `run` does it, which is imported once the command line is known to be right.
    """
    args = parse()
    # These take seconds to load: help and a mistaken flag do not wait for them.
    from transformers.utils.logging import disable_progress_bar

    from sharelora.trainer.devices import is_first
    from sharelora.trainer.signals import ending

    # PEFT asks models for an attribute that transformers has renamed since.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    disable_progress_bar()
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.WARNING)
    logging.getLogger("sharelora").setLevel(logging.INFO if is_first() else logging.ERROR)
    with ending():
        job = import_module(run).run if isinstance(run, str) else run
        job(args)
