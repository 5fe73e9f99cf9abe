"""What the comparison of layer groups came to: losses and sizes as tables and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.e2e_table import spread
from benchmarks.groups_experiment import Experiment, Run, Way
from benchmarks.groups_runner import is_done
from benchmarks.report import table
from sharelora.layer_groups import METHODS, Grouping, Similarity
from sharelora.reporting.pictures import new_figure, save_figure
from sharelora.reporting.results import read_result
from sharelora.support.text import size


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        before: loss on the held-out rows before training, in nats per answer token.
        loss: the same after the last update.
        trainable: parameters that were trained.
        bytes: of the adapter's file.
        seconds: of training alone.
    """

    before: float
    loss: float
    trainable: int
    bytes: int
    seconds: float


Found = Mapping[str, Mapping[Run, Outcome]]


@dataclass(frozen=True)
class Compared:
    """All that was measured.

    Attributes:
        similarity: of the model's layers.
        ways: what was compared.
        searched: what the search for learning rates came to.
        found: what the compared runs came to.
    """

    similarity: Similarity
    ways: Mapping[str, Way]
    searched: Found
    found: Found


def collect(runs: Iterable[Run], root: Path) -> dict[str, dict[Run, Outcome]]:
    """Return what has ended, by way.

    Raises:
        UserError: a result is damaged.
    """
    found: dict[str, dict[Run, Outcome]] = {}
    for run in runs:
        if is_done(root, run):
            result = read_result(root / run.name / "result.json")
            metrics = result.metrics
            found.setdefault(run.way, {})[run] = Outcome(
                metrics["eval_loss_before"],
                metrics["eval_loss"],
                result.plan["trainable"],
                result.adapter["bytes"],
                metrics["train_runtime"],
            )
    return found


def best_rates(found: Found) -> dict[str, float]:
    """Return for each way the learning rate with the lowest held-out loss; of equal ones the smaller."""
    # What diverged, whose loss is no number, is never the best.
    return {
        way: min(runs, key=lambda run: (runs[run].loss != runs[run].loss, runs[run].loss, run.rate)).rate
        for way, runs in found.items()
    }


def loss_table(ways: Mapping[str, Way], found: Found) -> str:
    """Return a row per way: sizes, the loss before and after, and the difference to LoRA within a seed."""
    heads = ("", "trained", "file", "loss before", "after", "against LoRA", "learning rate", "training s", "seeds")
    return table(heads, [_row(name, way, found) for name, way in ways.items() if found.get(name)])


def _row(name: str, way: Way, found: Found) -> tuple[str, ...]:
    runs = found[name]
    ends = list(runs.values())
    lora = {run.seed: end.loss for run, end in found.get("lora", {}).items()}
    gaps = [end.loss - lora[run.seed] for run, end in runs.items() if run.seed in lora]
    return (
        way.title,
        f"{ends[0].trainable:,}",
        size(max(end.bytes for end in ends)),
        f"{ends[0].before:.4f}",
        spread([end.loss for end in ends], 4),
        "" if name == "lora" else spread(gaps, 4),
        f"{next(iter(runs)).rate:g}",
        f"{statistics.fmean(end.seconds for end in ends):.0f}",
        str(len(ends)),
    )


def search_table(experiment: Experiment, ways: Mapping[str, Way], found: Found) -> str:
    """Return the held-out loss of every learning rate that was tried, the chosen one in bold."""
    best, rows = best_rates(found), []
    for name, runs in found.items():
        losses = {run.rate: f"{end.loss:.4f}" for run, end in runs.items()}
        losses[best[name]] = f"**{losses[best[name]]}**"
        rows.append((ways[name].title, *(losses.get(rate, "-") for rate in experiment.rates)))
    return table(("", *(f"{rate:g}" for rate in experiment.rates)), rows)


def groups_table(experiment: Experiment, similarity: Similarity) -> str:
    """Return a row per threshold and method: groups, distinct layers and the least similar pair that shares."""
    similar = similarity.matrix()
    rows = [
        (f"{threshold:g}", name, *_grouped(method(similar, threshold)))
        for threshold in experiment.thresholds
        for name, method in METHODS.items()
    ]
    return table(("threshold", "method", "distinct layers", "saved", "least similar pair", "groups"), rows)


def _grouped(grouping: Grouping) -> tuple[str, ...]:
    least = f"{min(grouping.least):.4f}" if grouping.least else "-"
    groups = grouping.text().replace(";", "; ") or "none"
    return (f"{grouping.distinct} of {grouping.layers}", f"{grouping.saving:.1%}", least, groups)


def plot(ways: Mapping[str, Way], found: Found, stem: Path) -> list[Path]:
    """Draw the loss after training, the smallest adapter at the top: every seed a dot, mean and standard deviation.

    Returns:
        The files: SVG and PNG.
    """
    ended = {name: list(runs.values()) for name, runs in found.items()}
    names = sorted(ended, key=lambda name: ended[name][0].trainable)
    figure = new_figure(7.5, 0.9 + 0.38 * len(names))
    axes = figure.add_subplot()
    for place, name in enumerate(names):
        _mark(axes, place, [end.loss for end in ended[name]], _colour(ended[name][0].trainable, ended))
    labels = [f"{ways[name].title} ({ended[name][0].trainable:,})" for name in names]
    axes.set_yticks(range(len(names)), labels, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("held-out loss (nats per answer token); in brackets the trained parameters", fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    return save_figure(figure, stem)


def _mark(axes: Any, place: int, losses: Sequence[float], colour: str) -> None:
    deviation = statistics.stdev(losses) if len(losses) > 1 else 0.0
    axes.plot(losses, [place - 0.18] * len(losses), ".", color=colour, alpha=0.4, markersize=5)
    axes.errorbar(statistics.fmean(losses), place + 0.1, xerr=deviation, fmt="o", color=colour, capsize=3)


def _colour(trainable: int, ended: Mapping[str, Sequence[Outcome]]) -> str:
    """Return a colour that ways of equal size have in common."""
    sizes = sorted({ends[0].trainable for ends in ended.values()})
    return f"C{sizes.index(trainable) % 10}"
