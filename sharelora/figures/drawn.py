"""What every figure is: a picture, and the same numbers as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.comparison import layout
from sharelora.files import write_text
from sharelora.pictures import save_figure


@dataclass(frozen=True)
class Drawn:
    """A figure.

    Attributes:
        picture: of matplotlib.
        rows: the numbers drawn, the headers first.
        note: what a reader has to know; empty if nothing.
    """

    picture: Any
    rows: Sequence[Sequence[str]]
    note: str = ""

    def table(self, markdown: bool = False) -> str:
        """Return the numbers as text."""
        return "\n".join([layout(self.rows, markdown), *([f"\n{self.note}"] if self.note else [])])

    def save(self, stem: Path) -> list[Path]:
        """Write the picture as SVG and PNG and the table as Markdown, and return the files."""
        table = stem.with_suffix(".md")
        write_text(table, self.table(markdown=True) + "\n")
        return [*save_figure(self.picture, stem), table]
