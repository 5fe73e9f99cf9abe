"""The evaluations of a run, and which epoch's weights are kept: the best on rows held out of train.

The best weights so far wait on the CPU. An evaluation is an entry with `step`, `epoch` and `<split>_<metric>`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sharelora.support.errors import UserError
from sharelora.training.glue.data import HELD_OUT, LOSS, TaskRows
from sharelora.training.glue.record import put_weights, read_weights, trained_weights, write_weights
from sharelora.training.output import SELECTED

Entry = dict[str, float]


@dataclass(frozen=True)
class Kept:
    """The weights that a model has after training.

    Attributes:
        which: `selected` or `last`.
        epoch: when these were the model's weights.
        evaluations: all of the run.
    """

    which: str
    epoch: float
    evaluations: Sequence[Entry]


def better(metric: str, new: float, old: float | None) -> bool:
    """Whether a value is better than an earlier one: strictly, so that the first of equal ones stays."""
    if not math.isfinite(new):
        return False
    return old is None or (new < old if metric == LOSS else new > old)


class Selection:
    """The best weights so far.

    Args:
        metric: what is compared, e.g. `accuracy`; a lower `loss` is better.
    """

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.value: float | None = None
        self.step = 0
        self.epoch = 0.0
        self.weights: dict[str, Tensor] = {}

    def see(self, metrics: Mapping[str, Any], model: Any, step: int, epoch: float) -> None:
        """Look at an evaluation, and keep a copy of the model's trained weights if it is the best.

        Args:
            metrics: as the Trainer returns them, `eval_held_out_accuracy` for example; others are ignored.
            model: what was evaluated.
            step: updates so far.
            epoch: epochs so far.
        """
        value = metrics.get(f"eval_{HELD_OUT}_{self.metric}")
        if value is not None and better(self.metric, value, self.value):
            self.value, self.step, self.epoch = float(value), step, epoch
            self.weights = trained_weights(model)

    def restore(self, model: Any) -> None:
        """Put the best weights into a model."""
        put_weights(model, self.weights, "the selected epoch")

    def save(self, folder: Path) -> None:
        """Write the best weights into a checkpoint, so that an interrupted run keeps them."""
        if self.weights:
            facts = {"value": repr(self.value), "step": str(self.step), "epoch": repr(self.epoch)}
            write_weights(folder / SELECTED, self.weights, facts)

    def load(self, folder: Path) -> None:
        """Read what a checkpoint has; nothing if it was saved before the first evaluation.

        Raises:
            UserError: the file is damaged.
        """
        if (folder / SELECTED).is_file():
            self.weights, facts = read_weights(folder / SELECTED)
            try:
                self.value, self.step, self.epoch = float(facts["value"]), int(facts["step"]), float(facts["epoch"])
            except (KeyError, ValueError) as error:
                raise UserError(
                    f"{folder / SELECTED} does not say of which evaluation it is ({error}); need value, step and "
                    "epoch; use another checkpoint"
                ) from error


def read_evaluations(history: Iterable[Mapping[str, Any]], rows: TaskRows) -> list[Entry]:
    """Return the evaluations in a Trainer's log, first to last.

    Args:
        history: the log, one mapping per line; each split has its own line.
        rows: says which splits and metrics there are.

    Returns:
        For each evaluation `step`, `epoch`, and `<split>_<metric>` of every split.
    """
    names = [f"{split}_{metric}" for split in rows.evaluated for metric in rows.metric_names]
    entries: dict[int, Entry] = {}
    for line in history:
        values = {name: line[f"eval_{name}"] for name in names if f"eval_{name}" in line}
        if values:
            when = {"step": line["step"], "epoch": line["epoch"]}
            entries.setdefault(int(line["step"]), when).update(values)
    return [entries[step] for step in sorted(entries)]


def best_entry(entries: Sequence[Entry], name: str) -> Entry:
    """Return the first of the entries with the best value."""
    best = entries[0]
    for entry in entries[1:]:
        if better(LOSS if name.endswith(LOSS) else name, entry[name], best[name]):
            best = entry
    return best


def summary(entries: Sequence[Entry], rows: TaskRows, selected_step: int | None) -> dict[str, Any]:
    """Return what a result says about the epochs of a run.

    Args:
        entries: what `read_evaluations` returns; not empty.
        rows: the task.
        selected_step: the evaluation that the held-out rows chose; None if nothing was chosen.

    Returns:
        `<split>_<metric>_last`, `_selected` (the epoch that is best on the held-out rows) and `_best_epoch` (the one
        that is best on the task's own dev rows, which LoRA's authors report), the epochs themselves, and all
        evaluations as `course`.
    """
    chosen: dict[str, Entry] = {"last": entries[-1]}
    chosen.update(("selected", entry) for entry in entries if entry["step"] == selected_step)
    if rows.dev:
        chosen["best_epoch"] = best_entry(entries, f"{rows.dev[0]}_{rows.main_metric}")
    values: dict[str, Any] = {}
    for which, entry in chosen.items():
        # The best dev epoch says nothing about held-out rows.
        splits = [split for split in rows.evaluated if which != "best_epoch" or split != HELD_OUT]
        values |= {f"{split}_{m}_{which}": entry[f"{split}_{m}"] for split in splits for m in rows.metric_names}
    names = {"last": "last_epoch", "selected": "selected_epoch", "best_epoch": "best_epoch"}
    return {**values, **{names[which]: entry["epoch"] for which, entry in chosen.items()}, "course": list(entries)}
