"""The Trainer, changed so that a run that was interrupted anywhere goes on bit by bit.

transformers' checkpoints lack what these have: the losses since the last line of the log, every GPU's random state, the
evaluation that was still to come when the checkpoint was written, and a proof that they are whole.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from peft import PeftModel
from safetensors import SafetensorError
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from sharelora.support.errors import UserError
from sharelora.trainer.checkpoints import damage, find, new_checkpoint, rotate
from sharelora.trainer.dealing import digest, require_agreement
from sharelora.trainer.engine_trainer import EngineTrainer
from sharelora.trainer.sharding import cut_state, is_cut, whole_state
from sharelora.trainer.state import Random, derive_random_state, load_state, random_state, save_state, set_random_state

logger = logging.getLogger(__name__)

STATE = "training_state.safetensors"
TRAINER_STATE = "trainer_state.json"


@dataclass
class Moment:
    """Where between two updates a run is.

    Attributes:
        epoch_over: the callbacks of the epoch's end have been called.
        unevaluated: an evaluation is due, and was put off or broken off.
        saved: the update whose checkpoint was written last.
        last: gradient norm and learning rate of the last update, for the log of an epoch.
    """

    epoch_over: bool = False
    unevaluated: bool = False
    saved: int = -1
    last: tuple[Any, float | None] = (None, None)


class _Follow(TrainerCallback):
    """Tell the trainer where it is."""

    def __init__(self, trainer: ExactTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.go_on()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.moment.epoch_over = False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.moment.epoch_over = True


class ExactTrainer(EngineTrainer):
    """The Trainer with whole checkpoints and exact resumption.

    Attributes:
        moment: where between two updates the run is.
        parts: what a checkpoint knows beside the weights; all of it must be there to go on.
    """

    parts = frozenset(
        "optimizer scheduler scaler processes total_loss last_logged unevaluated epoch_end_is_due stopped_early "
        "gradient_norm learning_rate".split()
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.moment = Moment()
        self._resumed: dict[str, Any] | None = None
        self._random: Random | None = None
        self.add_callback(_Follow(self))

    # Saving.

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a whole checkpoint or none, then delete those that are too many.

        Raises:
            UserError: it cannot be written, or processes hold different weights; earlier checkpoints stay.
        """
        self.store_flos()
        self.require_agreement()
        state, weights = self._whole_state(), self.whole_weights()  # of which every process may have a part
        folder, step = Path(str(self.args.output_dir)), self.state.global_step
        path, best = folder / f"checkpoint-{step}", self._best(folder)
        self.state.best_model_checkpoint = str(best) if best else None
        if self.args.should_save:
            with new_checkpoint(folder, step) as aside:
                self._save(str(aside), weights)
                if not self.args.save_only_model:
                    save_state(aside / STATE, state)
                self._save_trainer_state(aside)
            rotate(folder, path, self.args.save_total_limit, [best] if best else [])
        self.accelerator.wait_for_everyone()
        self.moment.saved = step
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(path))

    def require_agreement(self) -> None:
        """See to it that all processes hold the same weights.

        Raises:
            UserError: they do not.
        """
        if self.args.world_size > 1 and not is_cut(self.model):
            found = gather_object([digest(self.accelerator.unwrap_model(self.model))])
            require_agreement(found, self.state.global_step, find(Path(str(self.args.output_dir))).good)

    def _whole_state(self) -> dict[str, Any]:
        """Everything beside the weights, of all processes together."""
        scaler, optimizer, scheduler = self.accelerator.scaler, self.optimizer, self.lr_scheduler
        assert optimizer is not None and scheduler is not None, "the Trainer makes both before it trains"
        own = {"random": random_state(), "loss": self._tr_loss.item()}
        step, last = self.state.global_step, self.state.max_steps
        # The last epoch may be cut short.
        at_end = step > 0 and (float(self.state.epoch or 0).is_integer() or step >= last)
        norm, rate = self.moment.last
        return {
            "optimizer": whole_state(optimizer.state_dict()),
            "scheduler": scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "processes": gather_object([own]),
            "total_loss": self._total_loss_scalar,
            "last_logged": self._globalstep_last_logged,
            "unevaluated": self.moment.unevaluated,
            "epoch_end_is_due": at_end and not self.moment.epoch_over,
            "stopped_early": self.control.should_training_stop and step < last,
            "gradient_norm": None if norm is None else float(norm),
            "learning_rate": rate,
        }

    def _best(self, folder: Path) -> Path | None:
        """The best checkpoint so far, wherever the folder was when it was written."""
        step = self.state.best_global_step
        path = folder / f"checkpoint-{step}"
        return path if step and (path.is_dir() or step == self.state.global_step) else None

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        found: bool = super()._determine_best_metric(metrics, trial)
        # Otherwise the best weights could be ones that nothing keeps.
        self.control.should_save = self.control.should_save or (found and self.args.load_best_model_at_end)
        return found

    def _save_trainer_state(self, folder: Path) -> None:
        items = [*self.callback_handler.callbacks, self.control]
        states: Any = {type(item).__name__: item.state() for item in items if isinstance(item, ExportableState)}
        self.state.stateful_callbacks = states
        self.state.save_to_json(str(folder / TRAINER_STATE))

    # Going on.

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        file = Path(checkpoint) / STATE
        assert self.optimizer is not None and self.lr_scheduler is not None, "the Trainer makes both before it loads"
        self._resumed = load_state(file, self.parts)
        try:
            self.optimizer.load_state_dict(cut_state(self._resumed["optimizer"], self.optimizer))
            self.lr_scheduler.load_state_dict(self._resumed["scheduler"])
        except (ValueError, KeyError, RuntimeError, TypeError) as error:
            raise misfit(file, error) from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if is_cut(model or self.model):
            return
        own = self.accelerator.unwrap_model(model or self.model)
        try:
            if isinstance(own, PeftModel):  # the Trainer would rather open a pickle that lies beside the adapter
                own.load_adapter(resume_from_checkpoint, own.active_adapters[0], is_trainable=True)
            else:
                super()._load_from_checkpoint(resume_from_checkpoint, model)
        except UserError:
            raise
        except (ValueError, KeyError, RuntimeError, OSError, SafetensorError) as error:
            raise misfit(Path(resume_from_checkpoint), error) from error

    def _load_scaler(self, checkpoint: str | None) -> None:
        scaler = (self._resumed or {}).get("scaler")
        if scaler is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(scaler)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if self._random is not None:
            set_random_state(self._random)

    def _init_training_state(self, max_steps: int, *args: Any) -> tuple[int, int]:
        found = super()._init_training_state(max_steps, *args)
        # A run that goes on may log, evaluate and save more or less often than before.
        self.state.compute_steps(self.args, max_steps)
        self._choose_best()
        states: Any = self.state.stateful_callbacks or {}
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, ExportableState) and type(callback).__name__ in states:
                vars(callback).update(states[type(callback).__name__]["attributes"])
        return found

    def _choose_best(self) -> None:
        """Find the best checkpoint so far where the folder is now.

        Raises:
            UserError: it is what is wanted in the end, and it is damaged or gone.
        """
        folder, step = Path(str(self.args.output_dir)), self.state.best_global_step
        if step and self.args.load_best_model_at_end:
            _require_whole(folder / f"checkpoint-{step}")
        best = self._best(folder)
        self.state.best_model_checkpoint = str(best) if best else None

    def go_on(self) -> None:
        """Put back what a checkpoint knows, and do what was still to be done when it was written."""
        saved, self.moment = self._resumed, Moment()
        if saved is None:
            if self.args.process_index > 0:  # or all processes would drop out the same of different rows
                derive_random_state(self.args.seed, 0, self.args.process_index)
            return
        self._take_up(saved["processes"])
        self._total_loss_scalar, self._globalstep_last_logged = saved["total_loss"], saved["last_logged"]
        self.moment = Moment(saved=self.state.global_step, last=(saved["gradient_norm"], saved["learning_rate"]))
        self.control.should_training_stop = saved["stopped_early"]
        due = {"evaluation": saved["unevaluated"], "epoch": saved["epoch_end_is_due"]}
        if not any(due.values()):
            return
        if self._random is not None:
            set_random_state(self._random)
        if due["evaluation"]:
            self.moment.epoch_over = not due["epoch"]
            # Saved again, with what is found: it was saved without.
            self.control.should_evaluate = self.control.should_save = True
            self._finish_update()
        if due["epoch"]:
            self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
            self._finish_update()
        self._random = random_state() if self._random is not None else None

    def _take_up(self, processes: list[dict[str, Any]]) -> None:
        count, index = self.args.world_size, self.args.process_index
        if len(processes) == count:
            self._random = processes[index]["random"]
            self._tr_loss.fill_(processes[index]["loss"])
            return
        logger.warning(
            "number of processes: %d, before %d; weights, optimizer and the place in the data are the same; "
            "random numbers, such as those of dropout, start anew from the seed, the update and each process's rank",
            count, len(processes),
        )  # fmt: skip
        derive_random_state(self.args.seed, self.state.global_step, index)
        self._random = random_state()
        self._tr_loss.fill_(sum(process["loss"] for process in processes) / len(processes))

    def _finish_update(self) -> None:
        norm, rate = self.moment.last
        self._maybe_log_save_evaluate(
            self._tr_loss, norm, self.model_wrapped, None, float(self.state.epoch or 0), None, 0.0, learning_rate=rate
        )

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # The Trainer would do one more update when it goes on from the last one in the middle of an epoch.
        done = self.state.global_step >= self.state.max_steps or self.control.should_training_stop
        if self._resumed is not None and done:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _finalize_training(self, *args: Any) -> Any:
        # The Trainer would delete the last checkpoint beside the best one before what was trained is written.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        self._choose_best()
        try:
            return super()._finalize_training(*args)
        finally:
            self.args.save_total_limit = limit

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; the loss of the whole training counts the updates before an interruption too."""
        super().log({**logs, "train_loss": self.mean_loss} if "train_loss" in logs else logs, start_time)

    @property
    def mean_loss(self) -> float:
        """The mean training loss over all updates, those before an interruption too."""
        return float(self._total_loss_scalar / max(1, self.state.global_step))

    def _maybe_log_save_evaluate(self, tr_loss: Any, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        self.moment.last = (grad_norm, kwargs.get("learning_rate"))
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)


def _require_whole(best: Path) -> None:
    problem = damage(best)
    if problem is not None:
        raise UserError(
            f"{best}, the best checkpoint, is no whole one: {problem}; copy it from a backup, or take the last weights "
            "with --load_best_model_at_end false --resume_anyway"
        )


def misfit(place: Path, error: Exception) -> UserError:
    """Return what to say of a checkpoint that does not fit a run."""
    return UserError(
        f"{place} does not fit this run: {' '.join(str(error).split())[:300]}; need the settings that it was written "
        "with; choose another --output_dir, or --overwrite_output_dir to start anew"
    )
