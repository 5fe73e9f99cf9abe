"""A line of progress every few seconds."""

from __future__ import annotations

import logging
import time
from datetime import timedelta

logger = logging.getLogger(__name__)


class Progress:
    """Tells how far a test is, how fast, and when it will be done.

    Args:
        name: of the test.
        every: seconds between two lines.
        bar: characters of a bar in each line; 0 for none.
    """

    def __init__(self, name: str, every: float = 5.0, bar: int = 0) -> None:
        self.name, self.every, self.bar = name, every, bar
        self.began = self.shown = time.monotonic()

    def __call__(self, done: int, total: int, tokens: int) -> None:
        """Say it if it is time.

        Args:
            done: finished items.
            total: all items.
            tokens: read so far.
        """
        now = time.monotonic()
        if now - self.shown < self.every or not done:
            return
        self.shown, seconds = now, now - self.began
        left = timedelta(seconds=round(seconds * (total - done) / done))
        name = self.name + self._bar(done / total)
        logger.info("%s %d/%d  %s tokens/s  %s left", name, done, total, f"{tokens / seconds:,.0f}", left)

    def _bar(self, part: float) -> str:
        full = int(part * self.bar)
        return f" [{'#' * full}{'.' * (self.bar - full)}]" if self.bar else ""
