"""Guards against runs that go wrong silently: losses and gradients that are not finite, processes that disagree."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerState, TrainingArguments

from sharelora.support.errors import UserError
from sharelora.trainer.zero import WholeOptimizer

logger = logging.getLogger(__name__)

Mode = Literal["stop", "skip"]
# After this many skipped updates in a row the run stops all the same: it would learn nothing any more.
IN_A_ROW = 10
SHOWN = 16  # rows named in a message


class NonFinite(TrainerCallback):
    """Judge every update before the optimizer sees it.

    Args:
        mode: `stop` ends the run; `skip` leaves the update out and counts it.
        rows: returns the training rows of the update in progress, for the message.
        last_good: returns the last good checkpoint, or None, for the message.

    Attributes:
        skipped: updates that were left out.
        left_out: those of them since the last line of the log.
        bad: what is wrong with the update in progress; None if nothing is.
    """

    def __init__(self, mode: Mode, rows: Callable[[], Sequence[int]], last_good: Callable[[], Any]) -> None:
        self.mode, self.rows, self.last_good = mode, rows, last_good
        self.skipped = self.left_out = 0
        self.bad: str | None = None
        self._in_a_row = 0
        self._loss: Tensor | None = None  # of the update in progress
        self._running_before = torch.zeros(())

    def see_loss(self, loss: Tensor, running: Tensor) -> None:
        """Note the loss of a batch; the GPU is not waited for until the end of the update.

        Args:
            loss: of the batch.
            running: the sum of losses since the last line of the log, without this batch.
        """
        if self._loss is None:
            self._loss, self._running_before = loss.detach(), running.clone()
        else:
            self._loss = self._loss + loss.detach()

    def see_gradient(
        self, norm: Tensor | float, scaled: bool, over_processes: Callable[[Tensor], Tensor] = lambda loss: loss
    ) -> None:
        """Judge an update by the norm of its gradient, which every process knows, and by its losses.

        Args:
            norm: of all gradients together.
            scaled: a loss scaler handles gradients that overflow, which is how it finds its scale.
            over_processes: adds up the losses of all processes, so that they judge alike.
        """
        loss, self._loss = float(0.0 if self._loss is None else over_processes(self._loss)), None
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
            UserError: the update is not finite, and the run has to stop or has skipped too many in a row.
        """
        if self.bad is None:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        step, rows = state.global_step + 1, list(self.rows())
        named = ", ".join(map(str, rows[:SHOWN])) + (f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else "")
        if self.mode == "stop" or self._in_a_row > IN_A_ROW:
            before = f" and the {IN_A_ROW} updates before it were left out" if self._in_a_row > IN_A_ROW else ""
            raise UserError(
                f"{self.bad} at update {step}, on rows {named} of the training data{before}; need a finite number; "
                f"the last good checkpoint is {self.last_good() or 'none'}; lower --learning_rate or --max_grad_norm, "
                "use bf16 rather than fp16, or leave such updates out with --on_nan skip"
            )
        self.skipped += 1
        logger.warning("update %d is left out: %s on rows %s", step, self.bad, named)
        if args.fp16:  # the loss scaler has seen the same and skips the update by itself
            return
        if isinstance(optimizer, WholeOptimizer):
            optimizer.drop()
        for parameter in model.parameters():
            parameter.grad = None

    def clear(self) -> bool:
        """Whether the update in progress was left out; to be called once, at its end."""
        bad, self.bad = self.bad is not None, None
        return bad

    def correct_mean(self, running: Tensor, updates: int, should_log: bool) -> bool:
        """Leave skipped updates out of the mean loss of the next line of the log.

        Args:
            running: the sum of losses since the last line; changed in place.
            updates: how many the line would be about.
            should_log: a line is due.

        Returns:
            Whether to write the line: where all its updates were skipped there is no loss, and the next line is about
            more updates.
        """
        if self.clear():
            running.copy_(self._running_before)
            self.left_out += 1
        if self.left_out and should_log:
            if updates <= self.left_out:
                return False
            running *= updates / (updates - self.left_out)
            self.left_out = 0
        return should_log


def require_schedule(max_steps: int, epochs: float) -> None:
    """Refuse flags by which nothing would be trained.

    Args:
        max_steps: updates; below 0 the epochs count.
        epochs: passes over the rows.

    Raises:
        UserError: they come to no update.
    """
    if max_steps == 0:
        raise UserError("found --max_steps 0; need at least 1, or -1 to count epochs; --do_train false trains nothing")
    if max_steps < 0 and epochs <= 0:
        raise UserError(
            f"found --num_train_epochs {epochs:g}; need more than 0, or --max_steps; --do_train false trains nothing"
        )


def require_batch(args: TrainingArguments, rows: int, flag: str) -> None:
    """Refuse rows that make no whole batch where others are dropped.

    Args:
        args: of the Trainer.
        rows: of the training data.
        flag: what the command calls the rows of a batch.

    Raises:
        UserError: there would be no batch, and so no update.
    """
    least = args.train_batch_size * args.world_size if args.dataloader_drop_last else 1
    if rows < least:
        found = f"found {rows:,} rows to train on"
        if not args.dataloader_drop_last:
            raise UserError(f"{found}; need at least one; check the data")
        raise UserError(
            f"{found} and --dataloader_drop_last, which leaves no batch of {least:,} rows and so no update; need at "
            f"least {least:,}; lower --{flag}, or leave out --dataloader_drop_last"
        )


def require_update(done: int, skipped: int) -> None:
    """Refuse to keep what was never trained.

    Args:
        done: updates, those that were skipped included.
        skipped: those that were left out.

    Raises:
        UserError: no update is left.
    """
    if done <= skipped:
        why = f"all {done} were left out, as none had a finite loss and gradient" if done else "there was none"
        raise UserError(
            f"the training made no update: {why}; need at least one, so nothing is saved; check the data, "
            "--max_steps and --num_train_epochs, or lower --learning_rate"
        )


def update_rows(loader: Any, args: TrainingArguments, state: TrainerState) -> list[int]:
    """Return the training rows of the update in progress, all processes together, without blank ones.

    Args:
        loader: the Trainer's data loader.
        args: of the Trainer.
        state: of the Trainer.
    """
    batches, accumulation = len(loader), args.gradient_accumulation_steps
    first = (state.global_step % max(1, math.ceil(batches / accumulation))) * accumulation
    count = min(accumulation, batches - first)
    batch_sampler = loader.batch_sampler
    # With several processes accelerate wraps it, to deal its batches out.
    batch_sampler = getattr(batch_sampler, "batch_sampler", batch_sampler)
    sampler, size = batch_sampler.sampler, batch_sampler.batch_size * args.world_size
    seed = getattr(sampler, "initial_seed", None)
    if seed is None:
        order = list(sampler)
    else:
        # accelerate's sampler draws each epoch's permutation from its seed and the epoch; asking it would draw again.
        generator = torch.Generator().manual_seed(seed + int(state.epoch or 0))
        order = torch.randperm(len(sampler), generator=generator).tolist()
    return [row for row in order[first * size : (first + count) * size] if row < len(loader.dataset)]


def digest(model: nn.Module) -> str:
    """Return a fingerprint of the weights that are trained, by name and bit by bit."""
    total = hashlib.sha256()
    for name, value in sorted((name, value) for name, value in model.named_parameters() if value.requires_grad):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def require_agreement(digests: Sequence[str], step: int, last_good: Any) -> None:
    """Compare the weights of all processes.

    Args:
        digests: of each process, by rank.
        step: updates so far.
        last_good: the last good checkpoint, or None.

    Raises:
        UserError: two differ; nothing more may be saved.
    """
    others = [rank for rank, other in enumerate(digests) if other != digests[0]]
    if others:
        raise UserError(
            f"after update {step} process {', '.join(map(str, others))} of {len(digests)} holds other weights than "
            f"process 0; need the same bit by bit; the last good checkpoint is {last_good or 'none'}; start again to "
            "resume from it, with the same machine, driver and packages for all processes"
        )


def require_same_start(checkpoints: Sequence[str | None]) -> None:
    """Compare the checkpoints that processes would resume from.

    Args:
        checkpoints: of each process, by rank; None for a new start.

    Raises:
        UserError: two differ, as where machines do not share a folder.
    """
    first = checkpoints[0]
    for rank, other in enumerate(checkpoints):
        if other != first:
            raise UserError(
                f"process 0 resumes from {first or 'nothing'} and process {rank} from {other or 'nothing'}; need an "
                "--output_dir that all machines share; choose one and start again"
            )
