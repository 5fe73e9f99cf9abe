"""Progress of a long evaluation: a line in the log every few seconds."""

from __future__ import annotations

import logging
import time
from datetime import timedelta

logger = logging.getLogger(__name__)


class Progress:
    """Log how far an evaluation is, how fast it is, and when it will be done.

    Args:
        name: of the evaluation.
        every: seconds between two lines.
        bar: characters of a bar in each line; 0 for none.
        unit: what the speed counts.
    """

    def __init__(self, name: str, every: float = 5.0, bar: int = 0, unit: str = "tokens") -> None:
        self.name, self.every, self.bar, self.unit = name, every, bar, unit
        self.began = self.shown = time.monotonic()

    def __call__(self, done: int, total: int, amount: int) -> None:
        """Log a line if the last one is long enough ago.

        Args:
            done: finished items.
            total: all items.
            amount: of the unit so far: tokens that were read.
        """
        now = time.monotonic()
        if now - self.shown < self.every:
            return
        self.shown, seconds = now, now - self.began
        # Before anything is finished nothing says how long the rest will take.
        left = f"  {timedelta(seconds=round(seconds * (total - done) / done))} left" if done else ""
        name = self.name + self._bar(done / total)
        logger.info("%s %d/%d  %s %s/s%s", name, done, total, f"{amount / seconds:,.0f}", self.unit, left)

    def _bar(self, part: float) -> str:
        full = int(part * self.bar)
        return f" [{'#' * full}{'.' * (self.bar - full)}]" if self.bar else ""
