"""Reports of measurements: tables for people, JSON for programs, both with the machine and the command."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sharelora.reporting.document import provenance
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
    """Return mean ± sample standard deviation; one value alone has no deviation."""
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
