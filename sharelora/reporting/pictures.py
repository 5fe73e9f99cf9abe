"""Pictures: drawn without a display, saved as SVG and PNG, the same numbers always the same file."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharelora.support.errors import UserError
from sharelora.support.files import write_bytes

# Without the date and the program's version.
_METADATA: Mapping[str, dict[str, Any]] = {"svg": {"Date": None}, "png": {"Software": None}}


def require_matplotlib() -> None:
    """Say that pictures need matplotlib, before any long work starts.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("found no matplotlib; need it to draw pictures; install the extra: pip install -e .[plots]")


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure of that many inches.

    Raises:
        UserError: matplotlib is not installed.
    """
    require_matplotlib()
    # The object interface needs no display and changes no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, stem: Path) -> list[Path]:
    """Write a figure.

    Args:
        figure: of matplotlib.
        stem: the files are called so, with an ending each.

    Returns:
        The files: SVG and PNG.
    """
    import matplotlib

    made = []
    with matplotlib.rc_context({"svg.hashsalt": "sharelora"}):
        for ending, metadata in _METADATA.items():
            picture = io.BytesIO()
            figure.savefig(picture, format=ending, dpi=120, metadata=metadata)
            made.append(stem.with_suffix(f".{ending}"))
            write_bytes(made[-1], picture.getvalue())
    return made
