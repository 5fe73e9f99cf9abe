"""Results grouped into experiments: runs that differ in nothing but the seed."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.reporting.compare import Row, common_name, experiment, joined
from sharelora.reporting.results import Result, read_results
from sharelora.support.errors import UserError
from sharelora.support.reading import read_text, require_shape


@dataclass(frozen=True)
class Experiment:
    """Repetitions of one run with different seeds.

    Attributes:
        name: what their names have in common.
        rows: one per seed: the training with the evaluations of its adapter.
    """

    name: str
    rows: tuple[Row, ...]

    def values(self, metric: str) -> list[float]:
        """Return a metric of every run.

        Raises:
            UserError: a run without it.
        """
        return [_number(row, metric) for row in self.rows]

    def courses(self, metric: str) -> list[dict[int, float]]:
        """Return for every run: step -> the number.

        Raises:
            UserError: a run in which it was not measured while it trained.
        """
        return [_course(row.results, metric) for row in self.rows]


def read_experiments(paths: Iterable[str | Path]) -> list[Experiment]:
    """Read the results below some paths.

    Raises:
        UserError: a path without results.
    """
    results = {one.path.resolve(): one for path in paths for one in read_results(path)}
    groups: dict[str, list[Row]] = {}
    for row in joined(list(results.values())):
        groups.setdefault(experiment(row), []).append(row)
    names = [
        common_name([row.cells["run"] for row in rows]) if len(rows) > 1 else rows[0].cells["run"]
        for rows in groups.values()
    ]
    return [Experiment(name, tuple(rows)) for name, rows in zip(names, groups.values(), strict=True)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(row: Row, metric: str) -> float:
    value = row.cells.get(metric)
    if not _is_number(value):
        raise _lacks(row.results[0], metric, [name for name, cell in row.cells.items() if _is_number(cell)])
    return float(row.cells[metric])


def _lacks(result: Result, metric: str, has: Sequence[str]) -> UserError:
    shown = ", ".join(sorted(has)[:12]) or "none"
    return UserError(
        f"{result.path} has no number {metric!r}; it has {shown}; choose one of them, or give other results"
    )


def _course(results: Sequence[Result], metric: str) -> dict[int, float]:
    """Return step -> metric, from the course that a result holds or else from its loss.csv."""
    has: set[str] = set()
    for result in results:
        for lines in (_lines(result), _logged(result)):
            course = _points(lines, metric, result.path)
            if course:
                return dict(sorted(course.items()))
            has |= {name for line in lines for name, value in line.items() if name != "step" and value != ""}
    raise _lacks(results[0], f"{metric} over steps", sorted(has))


def _logged(result: Result) -> list[Mapping[str, Any]]:
    # The folder may have moved since the result was written.
    file = result.path.parent / "loss.csv"
    if not file.is_file():
        return []
    try:
        return list(csv.DictReader(io.StringIO(read_text(file, None), newline=""), restkey="more than its header"))
    except csv.Error as error:
        raise UserError(f"{file} is damaged ({error}); need the log of a run; remove it or copy it again") from error


def _lines(result: Result) -> list[Mapping[str, Any]]:
    """Return the course that a result holds; empty if it has none."""
    course: list[Mapping[str, Any]] = result.metrics.get("course") or []
    require_shape(course, [dict], f"the course in {result.path}")
    return course


def _points(lines: Iterable[Mapping[str, Any]], metric: str, path: Path) -> dict[int, float]:
    """Return step -> metric of the lines that have it."""
    try:
        return {int(line["step"]): float(line[metric]) for line in lines if line.get(metric) not in (None, "")}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"the course of {path} has a {metric} or a step that is no number ({error}); give other results"
        ) from error


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation; that of one value is 0."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def mean_text(values: Sequence[float]) -> str:
    """Return mean ± standard deviation for a table; a single value has no deviation."""
    mean, deviation = spread(values)
    return f"{mean:.4g}" if len(values) == 1 else f"{mean:.4g} ± {deviation:.2g}"
