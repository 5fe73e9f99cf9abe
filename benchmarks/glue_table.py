"""What the runs of the GLUE comparison came to: scores, sizes and times, as tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.glue_experiment import MAIN, METHODS, SEARCH_SEED, Experiment, Run
from benchmarks.glue_runner import is_done
from benchmarks.report import table
from sharelora.reporting.results import read_result
from sharelora.support.text import size

Cell = tuple[str, str]  # task, method


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        score: the task's metric, from -1 or 0 to 1: on dev after the last update, or in a search on held-out rows.
        loss: on the same rows.
        trainable: trained numbers of the adapter, each counted once.
        head: those of the head.
        bytes: of the adapter's file, head included.
        seconds: of training alone.
    """

    score: float
    loss: float
    trainable: int
    head: int
    bytes: int
    seconds: float


def outcome(experiment: Experiment, run: Run, root: Path) -> Outcome:
    """Read a run that has ended.

    Raises:
        UserError: its result is missing or damaged.
    """
    result = read_result(root / run.name / "result.json")
    part = "dev" if run.phase == MAIN else "held_out"
    measured = result.metrics
    return Outcome(
        score=measured[f"{part}_{experiment.tasks[run.task].metric}_last"],
        loss=measured[f"{part}_loss_last"],
        trainable=measured["trainable"],
        head=measured["trainable_head"],
        bytes=measured["adapter_bytes"],
        seconds=measured["train_runtime"],
    )


def collect(experiment: Experiment, runs: Iterable[Run], root: Path) -> dict[Cell, dict[Run, Outcome]]:
    """Return what has ended, by task and method."""
    found: dict[Cell, dict[Run, Outcome]] = {}
    for run in runs:
        if is_done(root, run):
            found.setdefault((run.task, run.method), {})[run] = outcome(experiment, run, root)
    return found


def best_rates(experiment: Experiment, found: Mapping[Cell, Mapping[Run, Outcome]]) -> dict[Cell, float]:
    """Return for each task and method the best learning rate on held-out rows; of equal ones the smaller."""
    return {cell: min(runs, key=lambda run: _rank(experiment, run, runs[run])).rate for cell, runs in found.items()}


def _rank(experiment: Experiment, run: Run, end: Outcome) -> tuple[float, float, float]:
    by = {"loss": end.loss, "score": -end.score}
    return by[experiment.tasks[run.task].chosen_by], end.loss, run.rate


def by_seed(found: Mapping[Cell, Mapping[Run, Outcome]], cell: Cell) -> dict[int, float]:
    """Return the scores of a task and method in hundredths, by seed."""
    return {run.seed: 100 * end.score for run, end in found.get(cell, {}).items()}


def averages(experiment: Experiment, found: Mapping[Cell, Mapping[Run, Outcome]], method: str) -> dict[int, float]:
    """Return the mean over tasks, by seed, where all tasks of a seed have ended."""
    tasks = [by_seed(found, (task, method)) for task in experiment.tasks]
    seeds = [seed for seed in experiment.seeds if all(seed in scores for scores in tasks)]
    return {seed: statistics.fmean(scores[seed] for scores in tasks) for seed in seeds}


def spread(values: Iterable[float], digits: int = 1) -> str:
    """Return mean ± standard deviation."""
    numbers = list(values)
    if not numbers:
        return "-"
    deviation = f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{statistics.fmean(numbers):.{digits}f}{deviation}"


def score_table(experiment: Experiment, found: Mapping[Cell, Mapping[Run, Outcome]], names: Sequence[str]) -> str:
    """Return a row per method: sizes, seconds of a run, and the scores of each task and their mean."""
    titles = [task.title for task in experiment.tasks.values()]
    return table(
        ("", "trained", "file", "s per run", *titles, "mean", "seeds"),
        [_row(experiment, found, name) for name in names],
    )


def _row(experiment: Experiment, found: Mapping[Cell, Mapping[Run, Outcome]], method: str) -> tuple[str, ...]:
    ends = [end for task in experiment.tasks for end in found.get((task, method), {}).values()]
    mean = averages(experiment, found, method)
    scores = [spread(by_seed(found, (task, method)).values()) for task in experiment.tasks]
    if not ends:
        return (METHODS[method].title, "-", "-", "-", *scores, "-", "0")
    seconds = statistics.fmean(end.seconds for end in ends)
    facts = (f"{ends[0].trainable:,}", size(max(end.bytes for end in ends)), f"{seconds:.0f}")
    return (METHODS[method].title, *facts, *scores, spread(mean.values(), 2), f"{len(mean)}")


def difference_table(
    experiment: Experiment, found: Mapping[Cell, Mapping[Run, Outcome]], pairs: Sequence[tuple[str, str]]
) -> str:
    """Return differences of the mean over tasks, formed within seeds, with the standard error of their mean."""
    return table(("", "difference in points", "seeds"), [_difference(experiment, found, *pair) for pair in pairs])


def _difference(
    experiment: Experiment, found: Mapping[Cell, Mapping[Run, Outcome]], one: str, other: str
) -> tuple[str, str, str]:
    ones, others = (averages(experiment, found, name) for name in (one, other))
    differences = [ones[seed] - others[seed] for seed in ones if seed in others]
    label = f"{METHODS[one].title} - {METHODS[other].title}"
    if len(differences) < 2:
        return label, "-", f"{len(differences)}"
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return label, f"{statistics.fmean(differences):+.2f} ± {error:.2f}", f"{len(differences)}"


def search_table(experiment: Experiment, found: Mapping[Cell, Mapping[Run, Outcome]]) -> str:
    """Return loss and score on held-out rows of every learning rate that was tried, the chosen one in bold."""
    best = best_rates(experiment, found)
    rows = []
    for cell, runs in found.items():
        task, ends = experiment.tasks[cell[0]], {run.rate: end for run, end in runs.items()}
        shown = [_searched(ends.get(rate), rate == best[cell]) for rate in sorted(experiment.rates)]
        rows.append((task.title, task.chosen_by, METHODS[cell[1]].title, *shown))
    return table(("task", "chosen by", "method", *(f"{rate:g}" for rate in sorted(experiment.rates))), rows)


def _searched(end: Outcome | None, chosen: bool) -> str:
    text = f"{end.loss:.4f}, {100 * end.score:.1f}" if end else "-"
    return f"**{text}**" if chosen else text


def edge_note(experiment: Experiment, best: Mapping[Cell, float]) -> str:
    """Say for how many cells the best rate was the smallest or the largest that was tried."""
    least, most = min(experiment.rates), max(experiment.rates)
    low, high = (sum(rate == edge for rate in best.values()) for edge in (least, most))
    return (
        f"Of {len(best)} choices {low} fell on the smallest and {high} on the largest rate that was tried "
        f"(seed {SEARCH_SEED})."
    )
