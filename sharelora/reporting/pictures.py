"""Pictures: drawn without a display, saved as SVG and PNG; the same numbers always give the same file."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.reporting.compare import layout
from sharelora.support.errors import UserError
from sharelora.support.files import write_bytes, write_text

# Without the date and matplotlib's version, which would make files of equal pictures differ.
_METADATA: Mapping[str, dict[str, Any]] = {"svg": {"Date": None}, "png": {"Software": None}}


def has_matplotlib() -> bool:
    """Return whether pictures can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def require_matplotlib() -> None:
    """Say that pictures need matplotlib, before any long work starts.

    Raises:
        UserError: it is not installed.
    """
    if not has_matplotlib():
        raise UserError("found no matplotlib; need it to draw pictures; install the extra: pip install -e .[plots]")


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure.

    Args:
        width: in inches.
        height: in inches.

    Raises:
        UserError: matplotlib is not installed.
    """
    require_matplotlib()
    # Optional, so imported here. The object interface needs no display and changes no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def picture_bytes(figure: Any, file_format: str) -> bytes:
    """Return a matplotlib figure as the content of a file.

    Args:
        figure: of matplotlib.
        file_format: `svg` or `png`.
    """
    import matplotlib

    picture = io.BytesIO()
    # A fixed salt, or the ids inside an SVG would be random.
    with matplotlib.rc_context({"svg.hashsalt": "sharelora"}):
        figure.savefig(picture, format=file_format, dpi=120, metadata=_METADATA[file_format])
    return picture.getvalue()


def save_figure(figure: Any, stem: Path) -> list[Path]:
    """Write a figure as SVG and as PNG.

    Args:
        figure: of matplotlib.
        stem: the path of both files without the ending.

    Returns:
        The files: SVG and PNG.
    """
    files = [stem.with_suffix(f".{file_format}") for file_format in _METADATA]
    for file in files:
        write_bytes(file, picture_bytes(figure, file.suffix[1:]))
    return files


@dataclass(frozen=True)
class Drawn:
    """A picture and the same numbers as a table.

    Attributes:
        picture: a figure of matplotlib.
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
