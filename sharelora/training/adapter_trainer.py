"""The Trainer, changed only where it must be: what it saves, how it groups, and what it logs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer
from transformers.trainer_pt_utils import get_length_grouped_indices

from sharelora.errors import UserError
from sharelora.training.callbacks import gradient_norms, shared_matrices

# What a full disk looks like from Python, from safetensors and from torch.save.
WRITE_ERRORS = (OSError, SafetensorError, RuntimeError)


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


class AdapterTrainer(Trainer):
    """The Trainer with compact checkpoints, a reproducible order, and a log of what the callbacks measure.

    Args:
        lengths: tokens of each training example, to group by.
        extra_logs: values that the next line of the log takes along; callbacks put them there.
    """

    def __init__(
        self,
        *args: Any,
        lengths: Sequence[int] | None = None,
        extra_logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        # A line of our own is shown instead (`sharelora.training.callbacks.Progress`).
        self.remove_callback(PrinterCallback)
        self.lengths = lengths
        self.extra_logs: dict[str, float] = {} if extra_logs is None else extra_logs

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        if self.args.train_sampling_strategy != "group_by_length" or self.lengths is None:
            return super()._get_train_sampler(train_dataset)
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthGrouped(self.lengths, batch, seed, lambda: int(self.state.epoch or 0))

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
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        step, every = self.state.global_step + 1, self.state.logging_steps
        if step == self.state.max_steps or (every and step % every == 0):
            self.extra_logs.update(gradient_norms(shared_matrices(self.model), norm, self.args.max_grad_norm))
        return norm

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a whole checkpoint or none.

        Raises:
            UserError: it cannot be written; earlier checkpoints stay.
        """
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
        except WRITE_ERRORS as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise UserError(
                f"cannot write {folder}: {' '.join(str(error).split())}; free space, then start again: "
                "the run goes on from its last checkpoint"
            ) from error

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
