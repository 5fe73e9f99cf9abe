"""The Trainer, changed only where it must be: what it saves, how it groups, and what it logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PrinterCallback
from transformers.trainer_pt_utils import get_length_grouped_indices

from sharelora.trainer.callbacks import gradient_norms, shared_matrices
from sharelora.trainer.checkpoints import find
from sharelora.trainer.dealing import Filled, Shuffled, WithBlank
from sharelora.trainer.listening import ListeningTrainer
from sharelora.trainer.nonfinite import Mode, NonFinite, update_rows
from sharelora.trainer.sharding import whole


class LengthGrouped(Sampler[int]):
    """Examples of similar length together, in an order that depends on the seed and the epoch alone.

    The Trainer's own sampler draws from the global generator, so that an interrupted run goes on in another order, and
    processes can disagree once their generators do.

    Args:
        lengths: tokens of each example.
        batch: examples per update, all processes together.
        seed: data_seed.
        epoch: tells the current epoch when an epoch begins.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int, epoch: Callable[[], int]) -> None:
        self.lengths = list(lengths)
        self.batch = batch
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        # Seeds one apart must not have each other's epochs.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch())
        return iter(get_length_grouped_indices(self.lengths, self.batch, generator=generator))


class AdapterTrainer(ListeningTrainer):
    """The Trainer with compact checkpoints, a reproducible order, a log of what the callbacks measure, and a guard.

    Args:
        lengths: tokens of each training example, to group by.
        extra_logs: values that the next line of the log takes along; callbacks put them there.
        on_nan: what becomes of an update whose loss or gradient is no finite number.
    """

    parts = ListeningTrainer.parts | {"skipped", "left_out", "gradient_norms"}

    def __init__(
        self,
        *args: Any,
        lengths: Sequence[int] | None = None,
        extra_logs: dict[str, float] | None = None,
        on_nan: Mode = "stop",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        # A line of our own is shown instead (`sharelora.trainer.callbacks.Progress`).
        self.remove_callback(PrinterCallback)
        self.lengths = lengths
        if self.args.world_size > 1 and self.train_dataset is not None:
            self.train_dataset = WithBlank(self.train_dataset)
        self.extra_logs: dict[str, float] = {} if extra_logs is None else extra_logs
        self._loss_before = torch.zeros(())
        self._left_out = 0  # updates since the last line of the log
        self.numbers = NonFinite(on_nan, self._rows, lambda: find(Path(str(self.args.output_dir))).good)
        self.add_callback(self.numbers)

    def _rows(self) -> list[int]:
        """The training rows of the update in progress, all processes together."""
        state, loader = self.state, cast(Any, self.callback_handler.train_dataloader)
        accumulation, processes = self.args.gradient_accumulation_steps, self.args.world_size
        rows = update_rows(loader, state.global_step, accumulation, processes, int(state.epoch or 0))
        return [row for row in rows if row < self.num_examples(loader)]  # without blank ones

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Do a batch's forward and backward, and look at its loss."""
        if self.numbers.begins:
            self._loss_before = self._tr_loss.clone()
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self.numbers.see_loss(loss)
        return loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        order, several = self._order(train_dataset), self.args.world_size > 1
        # What drops incomplete batches needs no blank rows.
        if order is None or not several or self.args.dataloader_drop_last:
            return order
        return Filled(order, self.args.train_batch_size * self.args.world_size)

    def _order(self, train_dataset: Any) -> Sampler[int] | None:
        """The order of an epoch, the same for any number of processes with the same rows per update."""
        args, strategy = self.args, self.args.train_sampling_strategy
        seed = args.seed if args.data_seed is None else args.data_seed
        if strategy == "group_by_length" and self.lengths is not None:
            batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            return LengthGrouped(self.lengths, batch, seed, self._epoch)
        if strategy == "random" and args.world_size > 1:
            return Shuffled(len(cast(Any, train_dataset or self.train_dataset)), seed, self._epoch)
        return super()._get_train_sampler(train_dataset)

    def _epoch(self) -> int:
        return int(self.state.epoch or 0)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int] | None:
        # The order of evaluation changes no result; the Trainer would group it as it groups training.
        return None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and take along what the callbacks measured if this is a line about training."""
        if "loss" in logs:
            logs = {**logs, **self.extra_logs}
            self.extra_logs.clear()
        super().log(logs, start_time)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = whole(super()._get_grad_norm(model, grad_norm=grad_norm))
        self.numbers.see_gradient(norm, self.accelerator.scaler is not None, self._together)
        step, every = self.state.global_step + 1, self.state.logging_steps
        if self.args.logging_strategy == "epoch":
            every = 1  # the last update of an epoch is known afterwards
        if step == self.state.max_steps or (every and step % every == 0):
            self.extra_logs.update(gradient_norms(shared_matrices(self.model), norm, self.args.max_grad_norm))
        return norm

    def _together(self, loss: Tensor) -> Tensor:
        """The sum of a number over all processes."""
        return self.accelerator.gather(loss).sum() if self.args.world_size > 1 else loss

    def _maybe_log_save_evaluate(self, tr_loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Leave updates that were skipped out of the mean loss."""
        if self.numbers.clear():
            tr_loss.copy_(self._loss_before)
            self._left_out += 1
        if self._left_out and self.control.should_log:
            every = self.state.global_step - self._globalstep_last_logged
            # Where all of them were skipped there is no loss; the next line is about more updates.
            self.control.should_log = every > self._left_out
            if self.control.should_log:
                tr_loss *= every / (every - self._left_out)
                self._left_out = 0
        super()._maybe_log_save_evaluate(tr_loss, *args, **kwargs)

    def _whole_state(self) -> dict[str, Any]:
        # Of the last update, for the log of an epoch that is not written yet.
        norms = {name: value for name, value in self.extra_logs.items() if name.startswith("grad_norm/")}
        own = {"skipped": self.numbers.skipped, "left_out": self._left_out, "gradient_norms": norms}
        return {**super()._whole_state(), **own}

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self._resumed is not None:
            self.numbers.skipped, self._left_out = self._resumed["skipped"], self._resumed["left_out"]
            self.extra_logs.update(self._resumed["gradient_norms"])

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        save_weights(self.accelerator.unwrap_model(self.model), folder, state_dict)


def save_weights(model: Any, folder: Path, state_dict: dict[str, Any] | None = None) -> None:
    """Write an adapter, each of its matrices once, or a whole model; no tokenizer, no pickled arguments.

    Args:
        model: a PEFT model or a plain one.
        folder: where it goes.
        state_dict: the gathered weights of a sharded model.
    """
    if isinstance(model, PeftModel):
        # The base's embeddings never change here, so PEFT need not ask the hub for the size of the original ones.
        model.save_pretrained(str(folder), state_dict=state_dict, save_embedding_layers=False)
    else:
        model.save_pretrained(str(folder), state_dict=state_dict)
