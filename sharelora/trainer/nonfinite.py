"""Updates whose loss or gradient is no finite number: the run stops, or leaves the update out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import TrainerCallback

from sharelora.support.errors import UserError
from sharelora.trainer.zero import WholeOptimizer

logger = logging.getLogger(__name__)

Mode = Literal["stop", "skip"]
# So many updates in a row are left out before the run stops all the same: it would learn nothing any more.
IN_A_ROW = 10
SHOWN = 16


class NonFinite(TrainerCallback):
    """Judge every update before the optimizer sees it.

    Args:
        mode: `stop` ends the run; `skip` leaves the update out and counts it.
        rows: tells the training rows of the update in progress, for the message.
        last_good: tells the last good checkpoint, or None, for the message.

    Attributes:
        skipped: updates that were left out.
        bad: what is wrong with the update in progress; None if nothing is.
    """

    def __init__(self, mode: Mode, rows: Callable[[], Sequence[int]], last_good: Callable[[], Any]) -> None:
        self.mode, self.rows, self.last_good = mode, rows, last_good
        self.skipped = 0
        self.bad: str | None = None
        self._in_a_row = 0
        self._loss: Tensor | None = None

    @property
    def begins(self) -> bool:
        """Whether the next batch is the first one of an update."""
        return self._loss is None

    def see_loss(self, loss: Tensor) -> None:
        """Look at the loss of a batch; the GPU is not waited for until the end of the update."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    def see_gradient(
        self, norm: Tensor | float, scaled: bool, together: Callable[[Tensor], Tensor] = lambda loss: loss
    ) -> None:
        """Look at the norm of an update's gradient, which every process knows, and at its losses.

        Args:
            norm: of all gradients together.
            scaled: a scaler looks after gradients that overflow, which is how it finds its scale.
            together: adds up the losses of all processes, so that they judge alike.
        """
        loss, self._loss = float(0.0 if self._loss is None else together(self._loss)), None
        gradient = float(norm)
        if not math.isfinite(loss):
            self.bad = f"the training loss is {loss}"
        elif not math.isfinite(gradient) and not scaled:
            self.bad = f"the gradient is {gradient}"

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """Stop, or take the gradients away so that the optimizer changes nothing.

        Raises:
            UserError: the update is no number, and the run is to stop or has skipped too many in a row.
        """
        if self.bad is None:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if self.mode == "stop" or self._in_a_row > IN_A_ROW:
            raise UserError(self._message(state.global_step + 1))
        self.skipped += 1
        logger.warning("update %d is left out: %s on rows %s", state.global_step + 1, self.bad, self._rows())
        if args.fp16:  # the scaler, which has seen the same, leaves the update out by itself
            return
        if isinstance(optimizer, WholeOptimizer):
            optimizer.drop()
        for parameter in model.parameters():
            parameter.grad = None

    def clear(self) -> bool:
        """Whether the update in progress was left out; asked once at its end."""
        bad, self.bad = self.bad is not None, None
        return bad

    def _rows(self) -> str:
        rows = list(self.rows())
        more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
        return ", ".join(map(str, rows[:SHOWN])) + more

    def _message(self, step: int) -> str:
        good = self.last_good()
        many = f" and the {IN_A_ROW} updates before it were left out" if self._in_a_row > IN_A_ROW else ""
        return (
            f"{self.bad} at update {step}, on rows {self._rows()} of the training data{many}; need a finite number; "
            f"the last good checkpoint is {good or 'none'}; lower --learning_rate or --max_grad_norm, use bf16 rather "
            "than fp16, or leave such updates out with --on_nan skip"
        )


def update_rows(loader: Any, done: int, accumulation: int, processes: int, epoch: int) -> list[int]:
    """Return the training rows of one update, all processes together.

    Args:
        loader: the Trainer's data loader.
        done: updates so far.
        accumulation: batches per update and process.
        processes: how many train together.
        epoch: epochs so far; the order of the rows depends on it.
    """
    batches = len(loader)
    first = (done % max(1, math.ceil(batches / accumulation))) * accumulation
    count = min(accumulation, batches - first)
    sampler = loader.batch_sampler
    sampler = getattr(sampler, "batch_sampler", sampler)  # each process's share of the batches
    size = sampler.batch_size * processes
    return _order(sampler.sampler, epoch)[first * size : (first + count) * size]


def _order(sampler: Any, epoch: int) -> list[int]:
    """The order of an epoch, without drawing from the generator that training uses."""
    seed = getattr(sampler, "initial_seed", None)
    if seed is None:
        return list(sampler)
    # accelerate's sampler draws each epoch's permutation from its seed and the epoch.
    generator = torch.Generator().manual_seed(seed + epoch)
    return torch.randperm(len(sampler), generator=generator).tolist()
