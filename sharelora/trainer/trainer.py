"""The Trainer of this project: transformers' own, with each method overridden once and its work done by parts.

- `exact_state`: what a checkpoint holds besides the weights, so that a run resumes bit by bit
- `checkpoints`: folders that are whole or absent
- `signals`: a run stops, or saves, between two updates
- `engines`: weights and states are whole on DDP, FSDP2 and ZeRO
- `guards`: losses and gradients are finite, and all processes hold the same weights
- `samplers`: the order of the rows

`overrides` lists the methods and why each is overridden.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from peft import PeftModel
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer

from sharelora.support.errors import Stopped, UserError, out_of_memory
from sharelora.support.files import write_json
from sharelora.trainer.callbacks import gradient_norms, shared_matrices
from sharelora.trainer.checkpoints import INPUTS, best_checkpoint, find, new_checkpoint, require_whole, rotate
from sharelora.trainer.engines import (
    EngineOptimizer,
    is_sharded,
    require_engine,
    set_rate_of_b,
    whole,
    whole_weights,
)
from sharelora.trainer.exact_state import (
    STATE,
    TRAINER_STATE,
    ExactState,
    Losses,
    misfit,
    random_state,
    restore_callbacks,
    save_trainer_state,
    set_random_state,
)
from sharelora.trainer.guards import Mode, NonFinite, digest, require_agreement, update_rows
from sharelora.trainer.samplers import Padded, WithBlank, training_order
from sharelora.trainer.serialization import save_state, save_weights
from sharelora.trainer.signals import Requests, stopped

logger = logging.getLogger(__name__)


class AdapterTrainer(Trainer):
    """transformers' Trainer, which can be interrupted anywhere and resumes bit by bit, on any engine.

    Args:
        lengths: tokens of each training example, to group by.
        extra_logs: values that callbacks measured, for the next line of the log.
        rate_of_b: learning rate of the B matrices by that of the As.
        on_nan: what happens to an update whose loss or gradient is not finite: `stop` or `skip`.

    Attributes:
        requests: what signals have asked for (`sharelora.trainer.signals.listening`).
        numbers: the guard against losses and gradients that are not finite.
        exact: what a checkpoint holds besides the weights.
        inputs: fingerprints of what the run reads, for its checkpoints; none are written while there are none.
    """

    def __init__(
        self,
        *args: Any,
        lengths: Sequence[int] | None = None,
        extra_logs: dict[str, float] | None = None,
        on_nan: Mode = "stop",
        rate_of_b: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.folder = Path(str(self.args.output_dir))
        # A line of our own is shown instead (`sharelora.trainer.callbacks.Progress`).
        self.remove_callback(PrinterCallback)
        self.lengths, self.rate_of_b = lengths, rate_of_b
        if self.args.world_size > 1 and self.train_dataset is not None:
            self.train_dataset = WithBlank(self.train_dataset)
        self.extra_logs: dict[str, float] = {} if extra_logs is None else extra_logs
        self.requests = Requests()
        self.inputs: dict[str, str] = {}
        self.engine_optimizer = EngineOptimizer(zero=self.is_deepspeed_enabled)
        self.exact = ExactState(self._resume)
        self.add_callback(self.exact)
        self.numbers = NonFinite(
            on_nan,
            lambda: update_rows(self.callback_handler.train_dataloader, self.args, self.state),
            lambda: find(self.folder).good,
        )
        self.add_callback(self.numbers)

    @property
    def mean_loss(self) -> float:
        """The mean training loss of all updates, those before an interruption too."""
        return float(self._total_loss_scalar / max(1, self.state.global_step))

    def whole_weights(self) -> dict[str, Tensor] | None:
        """Return the trained weights put together from all processes; None where each process has all of them."""
        return whole_weights(self.model)

    def require_agreement(self) -> None:
        """Check that all processes hold the same weights.

        Raises:
            UserError: they do not.
        """
        if self.args.world_size > 1 and not is_sharded(self.model):
            digests = gather_object([digest(self.accelerator.unwrap_model(self.model))])
            require_agreement(digests, self.state.global_step, find(self.folder).good)

    # Rows

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        rows = self.train_dataset if train_dataset is None else train_dataset
        order = training_order(self.args, rows, self.lengths, lambda: int(self.state.epoch or 0))
        if order is None:
            order = super()._get_train_sampler(train_dataset)
        # What drops incomplete batches needs no blank rows.
        if order is None or self.args.world_size == 1 or self.args.dataloader_drop_last:
            return order
        return Padded(order, self.args.train_batch_size * self.args.world_size)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int] | None:
        return None  # in the order of the data, which changes no result

    # Engines

    def create_optimizer(self, model: Any = None) -> Optimizer:
        """Make the optimizer, with groups of their own for Bs where their rate differs.

        The groups are remembered, as an engine would lose them.

        Raises:
            UserError: no B is trained whose rate could differ.
        """
        new, adapted = self.optimizer is None, cast(nn.Module, self.model if model is None else model)
        optimizer = super().create_optimizer(model)
        if new and self.rate_of_b != 1:
            set_rate_of_b(optimizer, adapted, self.rate_of_b)
        return self.engine_optimizer.remember(optimizer)

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        """Make the schedule, on the optimizer with whole states: the last moment to put it in."""
        self.optimizer = self.engine_optimizer.wrap(self.accelerator, self.optimizer)
        factor = self.learning_rate_factor(num_training_steps)
        if factor is not None and self.lr_scheduler is None:
            self.lr_scheduler, self._created_lr_scheduler = LambdaLR(optimizer or self.optimizer, factor), True
        return super().create_scheduler(num_training_steps, optimizer)

    def learning_rate_factor(self, num_training_steps: int) -> Callable[[int], float] | None:
        """Return a task's own schedule: update -> factor of the learning rate; None for the schedule that flags name.

        Args:
            num_training_steps: updates of the whole run.
        """
        return None

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        # Whole matrices can be loaded into a whole model only: before it is sharded.
        if resume_from_checkpoint is not None and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            self._load_from_checkpoint(resume_from_checkpoint)
        # Given a checkpoint, the Trainer would look for one in DeepSpeed's format.
        own = None if self.is_deepspeed_enabled else resume_from_checkpoint
        prepared = super()._prepare_for_training(max_steps, train_dataloader, own)
        if self.is_deepspeed_enabled:
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
        require_engine(self.model, self.optimizer)
        return prepared

    # An update

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Do a batch's forward and backward, and show its loss to the guard."""
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self.numbers.see_loss(loss, self._tr_loss)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = whole(super()._get_grad_norm(model, grad_norm=grad_norm))
        scaled = self.accelerator.scaler is not None
        self.numbers.see_gradient(norm, scaled, lambda loss: self.accelerator.gather(loss).sum())
        step, every = self.state.global_step + 1, self.state.logging_steps
        if self.args.logging_strategy == "epoch":
            every = 1  # only afterwards is it known which update was the last of an epoch
        if step == self.state.max_steps or (every and step % every == 0):
            self.extra_logs.update(gradient_norms(shared_matrices(self.model), norm, self.args.max_grad_norm))
        return norm

    # Between updates

    def _maybe_log_save_evaluate(self, tr_loss: Tensor, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        """Log, evaluate and save as the Trainer does, without skipped updates, and do what a signal asks for.

        Raises:
            Stopped: a signal asked for it; a checkpoint has been written.
        """
        updates = self.state.global_step - self._globalstep_last_logged
        self.control.should_log = self.numbers.correct_mean(tr_loss, updates, self.control.should_log)
        self.exact.position.last = (grad_norm, kwargs.get("learning_rate"))
        save, self.requests.save = self.requests.save, False
        stop, save = self._largest(self.requests.stop), bool(self._largest(save))
        if stop:  # an evaluation may take hours; it is done when the run resumes
            self.exact.position.unevaluated, self.control.should_evaluate = self.control.should_evaluate, False
        self.control.should_save = self.control.should_save or bool(stop) or save
        try:
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)
        except Stopped:  # in the middle of an evaluation
            self.control.should_evaluate = False
            self._save_checkpoint(None, None)
            raise self._saved_and_stopped(self.requests.stop) from None
        if save:
            logger.info("SIGUSR1: saved checkpoint-%d", self.state.global_step)
        self.leave()

    def leave(self) -> None:
        """End the run with a checkpoint if a signal asked any process for it.

        Raises:
            Stopped: it did.
        """
        stop = self._largest(self.requests.stop)
        if stop:
            if self.exact.position.saved != self.state.global_step:
                self._save_checkpoint(None, None)
            raise self._saved_and_stopped(stop)

    def _largest(self, value: int) -> int:
        """Return the largest value of all processes, so that all of them do the same."""
        if self.args.world_size == 1:  # without waiting for a GPU in every update
            return int(value)
        return int(self.accelerator.gather(torch.tensor([int(value)], device=self.args.device)).max())

    def _saved_and_stopped(self, stop: int) -> Stopped:
        path = self.folder / f"checkpoint-{self.state.global_step}"
        return stopped(stop, f"{path} has everything; start the same command again to continue")

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        # Training draws the same random numbers however often it is evaluated.
        random_before, lines = random_state(), len(self.state.log_history)
        # One process of several that stopped here would leave the others waiting.
        alone = self.args.world_size == 1
        try:
            with self.requests.interruptible() if alone else contextlib.nullcontext():
                metrics: dict[str, float] = super()._evaluate(*args, **kwargs)
            self.exact.position.unevaluated = False
            return metrics
        except Stopped:  # as if it had never begun
            del self.state.log_history[lines:]
            self.exact.position.unevaluated = True
            raise
        finally:
            set_random_state(random_before)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best: bool = super()._determine_best_metric(metrics, trial)
        # Otherwise the best weights could be in no checkpoint.
        self.control.should_save = self.control.should_save or (is_best and self.args.load_best_model_at_end)
        return is_best

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with what callbacks measured; the loss of the whole training covers updates before an interruption."""
        if "train_loss" in logs:
            logs = {**logs, "train_loss": self.mean_loss}
        if "loss" in logs:
            logs = {**logs, **self.extra_logs}
            self.extra_logs.clear()
        super().log(logs, start_time)

    # Saving

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a whole checkpoint or none, then delete those beyond the limit.

        Raises:
            UserError: it cannot be written, or processes hold different weights; earlier checkpoints stay.
        """
        self.store_flos()
        self.require_agreement()
        # Those of the last update, for the log of an epoch that is not written yet.
        norms = {name: value for name, value in self.extra_logs.items() if name.startswith("grad_norm/")}
        # Every process may hold a part of the state and the weights; only the first one writes.
        state = self.exact.collect(
            (self.optimizer, self.lr_scheduler, self.accelerator.scaler),
            Losses(self._tr_loss.item(), self._total_loss_scalar, self._globalstep_last_logged),
            (self.state, self.control),
            {"skipped": self.numbers.skipped, "left_out": self.numbers.left_out, "gradient_norms": norms},
        )
        weights, step = self.whole_weights(), self.state.global_step
        path, best = self.folder / f"checkpoint-{step}", best_checkpoint(self.folder, self.state)
        self.state.best_model_checkpoint = str(best) if best else None
        if self.args.should_save:
            with new_checkpoint(self.folder, step) as unfinished:
                self._save(str(unfinished), weights)
                if not self.args.save_only_model:
                    save_state(unfinished / STATE, state)
                if self.inputs:
                    write_json(unfinished / INPUTS, self.inputs)
                stateful = [*self.callback_handler.callbacks, self.control]
                save_trainer_state(self.state, stateful, unfinished / TRAINER_STATE)
            rotate(self.folder, path, self.args.save_total_limit, [best] if best else [])
        self.accelerator.wait_for_everyone()
        self.exact.position.saved = step
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(path))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir) if output_dir else self.folder
            save_weights(self.accelerator.unwrap_model(self.model), folder, state_dict)

    # Resuming

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        saved = self.exact.load(Path(checkpoint) / STATE, self.optimizer, self.lr_scheduler)
        self.numbers.skipped, self.numbers.left_out = saved["skipped"], saved["left_out"]
        self.extra_logs.update(saved["gradient_norms"])

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if is_sharded(model or self.model):  # done in `_prepare_for_training`
            return
        own = self.accelerator.unwrap_model(model or self.model)
        try:
            if isinstance(own, PeftModel):  # the Trainer would prefer a pickle in the same folder
                own.load_adapter(resume_from_checkpoint, own.active_adapters[0], is_trainable=True)
            else:
                super()._load_from_checkpoint(resume_from_checkpoint, model)
        except UserError:
            raise
        except Exception as error:  # whatever a file of another kind breaks in PEFT
            if out_of_memory(error):
                raise
            raise misfit(Path(resume_from_checkpoint), error) from error

    def _load_scaler(self, checkpoint: str | None) -> None:
        scaler = (self.exact.loaded or {}).get("scaler")
        if scaler is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(scaler)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        self.exact.restore_random()

    def _init_training_state(self, max_steps: int, *args: Any) -> tuple[int, int]:
        epochs_and_batches: tuple[int, int] = super()._init_training_state(max_steps, *args)
        # A resumed run may log, evaluate and save more or less often than before.
        self.state.compute_steps(self.args, max_steps)
        self._choose_best()
        restore_callbacks(self.state, self.callback_handler.callbacks)
        return epochs_and_batches

    def _choose_best(self) -> None:
        """Find the best checkpoint so far in the folder of this run, which may have been moved.

        Raises:
            UserError: its weights are to be loaded at the end, and it is damaged or gone.
        """
        if self.state.best_global_step and self.args.load_best_model_at_end:
            require_whole(self.folder / f"checkpoint-{self.state.best_global_step}")
        best = best_checkpoint(self.folder, self.state)
        self.state.best_model_checkpoint = str(best) if best else None

    def _resume(self) -> None:
        """Take up what a checkpoint holds, and do what was still due when it was written."""
        args = self.args
        resumed = self.exact.take_up(self.state.global_step, args.seed, args.process_index, args.world_size)
        if resumed is None:
            return
        losses = resumed.losses
        self._tr_loss.fill_(losses.running)
        self._total_loss_scalar, self._globalstep_last_logged = losses.total, losses.last_logged
        self.control.should_training_stop = resumed.stopped_early
        if not (resumed.evaluation_due or resumed.epoch_end_due):
            return
        self.exact.restore_random()
        if resumed.evaluation_due:
            self.exact.position.epoch_over = not resumed.epoch_end_due
            # Saved again, now with the evaluation in its log.
            self.control.should_evaluate = self.control.should_save = True
            self._finish_update()
        if resumed.epoch_end_due:
            self.control = self.callback_handler.on_epoch_end(args, self.state, self.control)
            self._finish_update()
        self.exact.keep_random()

    def _finish_update(self) -> None:
        norm, rate = self.exact.position.last
        epoch = float(self.state.epoch or 0)
        self._maybe_log_save_evaluate(
            self._tr_loss, norm, self.model_wrapped, None, epoch, None, 0.0, learning_rate=rate
        )

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # Resumed from the last update in the middle of an epoch, the Trainer would do one more.
        done = self.state.global_step >= self.state.max_steps or self.control.should_training_stop
        if self.exact.loaded is not None and done:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _finalize_training(self, *args: Any) -> Any:
        # The Trainer would delete all checkpoints but the best one before the trained weights are written.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        self._choose_best()
        try:
            return super()._finalize_training(*args)
        finally:
            self.args.save_total_limit = limit
