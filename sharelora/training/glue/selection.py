"""Which evaluation's weights are kept: the best on rows held out of train. Its weights wait on the CPU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sharelora.training.glue.data import HELD_OUT, LOSS
from sharelora.training.glue.store import put_weights, read_weights, trained_weights, write_weights
from sharelora.training.output import SELECTED


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
        """Read what a checkpoint has; nothing if it was saved before the first evaluation."""
        if (folder / SELECTED).is_file():
            self.weights, facts = read_weights(folder / SELECTED)
            self.value, self.step, self.epoch = float(facts["value"]), int(facts["step"]), float(facts["epoch"])
