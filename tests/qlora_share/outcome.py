"""How a command of the entry point ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code, what it logged and what it wrote to stderr."""

    code: int
    log: str
    err: str


Command = Callable[..., Outcome]
