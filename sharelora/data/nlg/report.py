"""What was cut to fit the length limits, as one sentence and as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class NlgReport:
    """What was cut, lengths in tokens.

    Args:
        split: which rows.
        rows: how many.
        limit: most tokens of a row, or of an input for decoding.
        cut: rows that lost tokens.
        longest: the longest before any cut.
        what: what was lost.
        example: one that was cut.
    """

    split: str
    rows: int
    limit: int
    cut: int
    longest: int
    what: str
    example: str = ""

    def line(self) -> str:
        """One sentence about what was lost; empty if nothing was."""
        if not self.cut:
            return ""
        return (
            f"{self.split}: {self.cut:,} of {self.rows:,} rows are longer than {self.limit} tokens (longest "
            f"{self.longest}) and lost {self.what}; e.g. {self.example}"
        )

    def to_json(self) -> dict[str, Any]:
        """The report as plain data, for result files."""
        return asdict(self)
