"""What the runs of the E2E comparison came to: scores, sizes and times, as tables and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import score_plot
from benchmarks.e2e_experiment import BASE, DECODED, TITLES, Experiment, Run
from benchmarks.e2e_runner import SCORES, is_done
from benchmarks.report import table
from sharelora.reporting.results import read_result
from sharelora.support.files import read_json
from sharelora.support.text import size

DIGITS: Mapping[str, int] = {"NIST": 3, "CIDEr": 3}


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        scores: metric -> score; empty of a search.
        loss: on the validation rows after the last update, in nats per token; None of the base.
        trainable: numbers in the adapter, each counted once.
        bytes: of the adapter's file.
        training: seconds of training alone.
        decoding: seconds of the beam search alone.
        ended: the share of texts that ended by themselves.
    """

    scores: Mapping[str, float]
    loss: float | None = None
    trainable: int = 0
    bytes: int = 0
    training: float = 0.0
    decoding: float = 0.0
    ended: float = 0.0


Found = Mapping[str, Mapping[Run, Outcome]]


def outcome(run: Run, root: Path) -> Outcome:
    """Read a run that has ended.

    Raises:
        UserError: one of its files is missing or damaged.
    """
    folder = root / run.name
    scores = read_json(folder / SCORES) if (folder / SCORES).is_file() else {}
    decoded = read_result(folder / DECODED / "result.json").metrics if scores else {}
    late = {"decoding": decoded.get("seconds", 0.0), "ended": decoded.get("ended", 0.0)}
    if run.share == BASE:
        return Outcome(scores, **late)
    result = read_result(folder / "result.json")
    return Outcome(
        scores,
        loss=result.metrics["eval_loss"],
        trainable=result.plan["trainable"],
        bytes=result.adapter["bytes"],
        training=result.metrics["train_runtime"],
        **late,
    )


def collect(runs: Iterable[Run], root: Path) -> dict[str, dict[Run, Outcome]]:
    """Return what has ended, by way of sharing."""
    found: dict[str, dict[Run, Outcome]] = {}
    for run in runs:
        if is_done(root, run):
            found.setdefault(run.share, {})[run] = outcome(run, root)
    return found


def best_rates(found: Found) -> dict[str, float]:
    """Return for each way of sharing the learning rate with the lowest validation loss; of equal ones the smaller."""
    return {share: min(runs, key=lambda run: (_loss(runs[run]), run.rate)).rate for share, runs in found.items()}


def _loss(end: Outcome) -> float:
    # What diverged is never the best.
    return float("inf") if end.loss is None or end.loss != end.loss else end.loss


def spread(values: Iterable[float], digits: int) -> str:
    """Return mean ± standard deviation."""
    numbers = list(values)
    if not numbers:
        return "-"
    deviation = f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{statistics.fmean(numbers):.{digits}f}{deviation}"


def score_table(experiment: Experiment, found: Found) -> str:
    """Return a row for the base and for each way of sharing: sizes, loss, metrics, seconds."""
    heads = (
        "",
        "trained",
        "file",
        "validation loss",
        *experiment.metrics,
        "ended",
        "training s",
        "decoding s",
        "seeds",
    )
    return table(heads, [_row(experiment, share, list(found.get(share, {}).values())) for share in _shares(experiment)])


def _shares(experiment: Experiment) -> tuple[str, ...]:
    return (BASE, *experiment.shares)


def _row(experiment: Experiment, share: str, ends: Sequence[Outcome]) -> tuple[str, ...]:
    title = TITLES.get(share, "base, not tuned")
    if not ends:
        return (title, *["-"] * (7 + len(experiment.metrics)))
    scores = [spread((end.scores[name] for end in ends), DIGITS.get(name, 4)) for name in experiment.metrics]
    tuned = share != BASE
    return (
        title,
        f"{ends[0].trainable:,}" if tuned else "",
        size(max(end.bytes for end in ends)) if tuned else "",
        spread([end.loss for end in ends if end.loss is not None], 4) if tuned else "",
        *scores,
        f"{100 * statistics.fmean(end.ended for end in ends):.0f} %",
        f"{statistics.fmean(end.training for end in ends):.0f}" if tuned else "",
        f"{statistics.fmean(end.decoding for end in ends):.0f}",
        f"{len(ends)}" if tuned else "",
    )


def search_table(experiment: Experiment, found: Found) -> str:
    """Return the validation loss of every learning rate that was tried, the chosen one in bold."""
    best, rates = best_rates(found), sorted(experiment.rates)
    rows = []
    for share, runs in found.items():
        losses = {run.rate: _loss(end) for run, end in runs.items()}
        shown = [f"{losses[rate]:.4f}" if rate in losses else "-" for rate in rates]
        bold = [f"**{text}**" if rate == best[share] else text for rate, text in zip(rates, shown, strict=True)]
        rows.append((TITLES[share], *bold))
    return table(("", *(f"{rate:g}" for rate in rates)), rows)


def plot(experiment: Experiment, found: Found, stem: Path) -> list[Path]:
    """Draw a panel per metric.

    Args:
        experiment: what was compared.
        found: what the runs came to.
        stem: the files are called so, with an ending each.

    Returns:
        The files: SVG and PNG.
    """
    ends = [list(found.get(share, {}).values()) for share in experiment.shares]
    panels = {name: [[end.scores[name] for end in runs] for runs in ends] for name in experiment.metrics}
    labels = [_label(share, runs) for share, runs in zip(experiment.shares, ends, strict=True)]
    return score_plot.plot(labels, panels, "score on the test set: every seed, mean and standard deviation", stem)


def _label(share: str, ends: Sequence[Outcome]) -> str:
    return f"{TITLES[share]} ({ends[0].trainable:,})" if ends else TITLES[share]
