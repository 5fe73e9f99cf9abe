"""Reports of measurements: tables and plots for people, JSON for programs, all with the machine and the command."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sharelora.reporting.document import provenance
from sharelora.reporting.pictures import new_figure, save_figure
from sharelora.support.files import require_writable, write_json, write_text
from sharelora.support.text import markdown_table, size

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = ROOT / "docs" / "results"


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table whose columns line up in plain text too."""
    cells = [[str(value) for value in row] for row in (headers, *rows)]
    return "\n".join(markdown_table(cells, left=len(headers)))


def milliseconds(spread: Mapping[str, float] | None) -> str:
    """Return a spread of seconds as `median (low-high)` in milliseconds."""
    if spread is None:
        return "-"
    median, low, high = (1000 * spread[key] for key in ("median", "low", "high"))
    digits = 2 if median < 10 else 1 if median < 100 else 0
    return f"{median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def times(spread: Mapping[str, float] | None) -> str:
    """Return a ratio, e.g. `1.12x`."""
    return "-" if spread is None else f"{spread['median']:.2f}x"


def memory(count: float | None) -> str:
    """Return bytes for a table, `-` where they were not measured."""
    return "-" if count is None else size(count)


def mean_and_deviation(values: Iterable[float], digits: int) -> str:
    """Return mean ± sample standard deviation; a single value has no deviation."""
    numbers = list(values)
    if not numbers:
        return "-"
    deviation = f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{statistics.fmean(numbers):.{digits}f}{deviation}"


def facts(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every result says about itself.

    Args:
        kind: of the measurement: files are named after it.
        settings: of the measurement.
    """
    return {"schema": 1, **provenance(kind), "settings": dict(settings)}


def save(folders: Iterable[Path], result: dict[str, Any], markdown: str) -> list[Path]:
    """Write a result as dated JSON and Markdown into folders.

    Returns:
        The JSON files; the Markdown files have the same names with another ending.

    Raises:
        UserError: a folder that cannot be written.
    """
    moment = datetime.fromisoformat(result["date"])
    files = []
    for folder in folders:
        file = require_writable(folder) / f"{result['kind']}-{moment:%Y%m%d-%H%M%S}.json"
        write_json(file, result)
        write_text(file.with_suffix(".md"), markdown)
        files.append(file)
    return files


def plot_scores(
    labels: Sequence[str],
    panels: Mapping[str, Sequence[Sequence[float]]],
    about: str,
    stem: Path,
    colours: Sequence[str] | None = None,
    width: float | None = None,
) -> list[Path]:
    """Draw a panel per score.

    Args:
        labels: of the methods, from top to bottom.
        panels: title of a score -> the values of each method, one per seed; a method may have none.
        about: what the values are, below all panels.
        stem: the path of the files without the ending.
        colours: of the methods; each has its own unless given.
        width: of the picture in inches; by the number of panels unless given.

    Returns:
        The files: SVG and PNG.
    """
    colours = colours or [f"C{row % 10}" for row in range(len(labels))]
    figure = new_figure(width or 1.5 + 2.1 * len(panels), 0.9 + 0.35 * len(labels))
    axes_row = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, methods) in zip(axes_row, panels.items(), strict=True):
        for row, (values, colour) in enumerate(zip(methods, colours, strict=True)):
            _draw_row(axes, row, values, colour)
        axes.set_title(title, fontsize=9)
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(axis="x", alpha=0.3)
    figure.supxlabel(about, fontsize=8)
    return save_figure(figure, stem)


def _draw_row(axes: Any, row: int, values: Sequence[float], colour: str) -> None:
    """Draw the seeds slightly above the line of a method, and mean and deviation slightly below it."""
    axes.plot(values, [row - 0.18] * len(values), ".", color=colour, alpha=0.4, markersize=5)
    if values:
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        mean = statistics.fmean(values)
        axes.errorbar(mean, row + 0.12, xerr=deviation, fmt="o", color=colour, capsize=3, markersize=5)
