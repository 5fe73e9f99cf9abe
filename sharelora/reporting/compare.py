"""`sharelora compare`: one row per trained adapter, with everything that was measured of it."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.reporting.results import Result, read_results
from sharelora.support.errors import UserError
from sharelora.support.text import columns, markdown_table, size

# Facts of the run, in this order, before the metrics.
FACTS = ("run", "kind", "model", "share", "trainable", "adapter bytes", "seconds", "peak memory")
# Metrics in the order of interest; others that exist follow by name.
FIRST = ("eval_loss", "train_loss")
# Bookkeeping and per-subject values, which would hide the results: speeds, counts, second forms of the same number,
# memory of the upstream Trainer. They are shown when asked for by name.
_COUNTS = (
    "batch_size|chance|epochs?|prompt_tokens|prompts_read_whole|questions|right|steps?|tokens|num_input_tokens_seen"
)
_FORMS = "loss|eval_loss_best|eval_tokens|eval_mmlu_accuracy|mmlu_loss|total_flos|peak_memory_bytes|seconds|ties"
BORING = re.compile(
    rf"_(runtime|per_second|samples|steps|stderr)$|_mem_|_micro(_before)?$|^({_COUNTS}|{_FORMS})$"
    r"|^mmlu_\w+_accuracy_(?!macro|micro)"
)
# Settings in which repetitions of one experiment differ.
PER_REPETITION = frozenset({"seed", "data_seed", "output_dir", "logging_dir", "run_name", "adapter", "result_dir"})
SIGNIFICANT_DIGITS = 5


@dataclass
class Row:
    """One line of the table: a run with the evaluations of its adapter.

    Attributes:
        results: the results joined here, the training first.
        cells: column -> value; of an aggregated row, column -> the values of all repetitions.
    """

    results: list[Result]
    cells: dict[str, Any]


def _scalars(metrics: Mapping[str, Any]) -> dict[str, float | int | str]:
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float | str)}
    return {name: value for name, value in numbers.items() if not isinstance(value, bool)}


def _row(result: Result, name: str) -> Row:
    facts = {
        "run": name,
        "kind": result.kind,
        "model": result.model and result.model.rstrip("/").rpartition("/")[2],
        "share": result.plan.get("share"),
        "trainable": result.plan.get("trainable", result.adapter.get("elements")),
        "adapter bytes": result.adapter.get("bytes"),
        "seconds": result.seconds,
        "peak memory": result.metrics.get("peak_memory_bytes"),
    }
    cells = {column: value for column, value in facts.items() if value is not None}
    return Row([result], {**cells, **_scalars(result.metrics)})


def _names(results: Sequence[Result]) -> list[str]:
    """Return a name per result: its own, or its folder relative to the one that contains all."""
    folders = [result.path.resolve().parent for result in results]
    common = os.path.commonpath([folder.parent for folder in folders]) if folders else ""
    return [result.run or os.path.relpath(folder, common) for result, folder in zip(results, folders, strict=True)]


def _belongs(result: Result, row: Row) -> bool:
    """Whether a result measured the adapter of this row: equal bytes, or for upstream files the same folder."""
    first = row.results[0]
    if result.kind == first.kind:
        return result.kind in ("lora", "qlora") and result.path.parent == first.path.parent
    digest = result.adapter.get("sha256")
    return digest is not None and digest == first.adapter.get("sha256")


def _join(row: Row, result: Result) -> bool:
    """Add a result to a row, unless the row already has another value for one of its metrics."""
    metrics = _scalars(result.metrics)
    if any(row.cells.get(name, value) != value for name, value in metrics.items() if not BORING.search(name)):
        return False
    row.cells.update({name: value for name, value in metrics.items() if name not in row.cells})
    if result.kind != row.results[0].kind:
        row.cells["kind"] += f"+{result.kind}"
    row.results.append(result)
    return True


def joined(results: Sequence[Result]) -> list[Row]:
    """Return a row per training, with the evaluations of its adapter joined; other results get rows of their own."""
    order = sorted(zip(results, _names(results), strict=True), key=lambda pair: pair[0].kind != "train")
    rows: list[Row] = []
    for result, name in order:
        candidates = [row for row in rows if _belongs(result, row)]
        if not [row for row in candidates if _join(row, result)]:
            rows.append(_row(result, name))
    return rows


def experiment(row: Row) -> str:
    """Return a text that is equal for runs that differ only in their seed and where they wrote."""
    parts: list[Any] = []
    for result in row.results:
        settings = {name: value for name, value in result.config.items() if name not in PER_REPETITION}
        # An upstream file says nothing of its settings, so nothing shows that two of them repeat one experiment.
        known = sorted(settings.items(), key=str) if result.config else result.path
        parts.append((result.kind, result.model, result.plan.get("hash"), known))
    return repr(sorted(parts, key=str))


def common_name(names: Sequence[str]) -> str:
    """Return what the names of repetitions have in common: without the seed, at the end or inside."""
    for seed in (r"[-_./]*+(seed|s)?[-_=]*+\d+$", r"[-_./]*+(seed|s)[-_=]*+\d+"):
        stems = {re.sub(seed, "", name) for name in names}
        if len(stems) == 1:
            return stems.pop()
    return names[0]


def _aggregate(rows: Sequence[Row]) -> Row:
    """Collect the values of all repetitions under each column that all of them have."""
    first = rows[0]
    seeds = {row.results[0].seed for row in rows}
    cells: dict[str, Any] = {}
    for column, value in first.cells.items():
        if isinstance(value, int | float) and all(column in row.cells for row in rows):
            cells[column] = [row.cells[column] for row in rows]
        elif all(row.cells.get(column) == value for row in rows):
            cells[column] = value
    name = first.cells["run"] if len(rows) == 1 else common_name([row.cells["run"] for row in rows])
    repeated = "" if len(rows) == len(seeds) else f" of {len(rows)} runs"
    return Row(first.results, {**cells, "run": name, "seeds": f"{len(seeds)}{repeated}"})


def _by_seed(rows: Sequence[Row]) -> list[Row]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(experiment(row), []).append(row)
    return [_aggregate(group) for group in groups.values()]


def _number(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{SIGNIFICANT_DIGITS}g}" if isinstance(value, float) else str(value)


FORMATS: dict[str, Callable[[Any], str]] = {
    "adapter bytes": size,
    "peak memory": size,
    "seconds": lambda seconds: f"{seconds:.1f}",
}


def _text(column: str, value: Any) -> str:
    show = FORMATS.get(column, _number)
    if value is None:
        return "-"
    if not isinstance(value, list):
        return show(value)
    if len(set(value)) == 1:
        return show(value[0])
    return f"{show(statistics.fmean(value))} ± {show(statistics.stdev(value))}"


def _headers(rows: Sequence[Row], chosen: Sequence[str] | None) -> list[str]:
    present = {column for row in rows for column in row.cells}
    facts = [column for column in ("run", "seeds", *FACTS[1:]) if column in present]
    metrics = [name for name in FIRST if name in present] + sorted(present - set(facts) - set(FIRST))
    unknown = [name for name in chosen or () if name not in metrics]
    if unknown:
        raise UserError(f"no result has a metric {unknown[0]!r}; there are {', '.join(metrics) or 'none'}")
    shown = [name for name in metrics if not BORING.search(name)]
    return facts + list(shown if chosen is None else chosen)


def layout(table: Sequence[Sequence[str]], markdown: bool = False) -> str:
    """Return a table as text whose columns line up, those of numbers on the right.

    Args:
        table: rows of equally many cells, the headers first.
        markdown: write a Markdown table.
    """
    left = [
        index
        for index, column in enumerate(zip(*table[1:], strict=True))
        if not all(re.match(r"[-\d]", cell) for cell in column)
    ]
    return "\n".join(markdown_table(table, left) if markdown else columns(table, left))


def compare(
    paths: Iterable[str | Path], by_seed: bool = False, metrics: Sequence[str] | None = None, markdown: bool = False
) -> str:
    """Return a table of results, one row per run, with the columns that exist.

    A training and the evaluations of its adapter (recognised by equal bytes) share a row. Upstream results have
    the columns that their files give.

    Args:
        paths: result files, or folders that are searched recursively.
        by_seed: one row for runs that differ in nothing but the seed: mean ± sample standard deviation.
        metrics: which metrics to show; None means all but bookkeeping and per-subject values.
        markdown: write a Markdown table.

    Raises:
        UserError: a path without results, or a metric that no result has.
    """
    results = [result for path in paths for result in read_results(path)]
    unique = list({result.path.resolve(): result for result in results}.values())
    if not unique:
        raise UserError("nothing to compare; give at least one result file or folder of a run")
    rows = joined(unique)
    rows = _by_seed(rows) if by_seed else rows
    headers = _headers(rows, metrics)
    table = [headers, *([_text(column, row.cells.get(column)) for column in headers] for row in rows)]
    return layout(table, markdown)
