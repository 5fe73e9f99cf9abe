"""The state from which a run resumes bit by bit: what a checkpoint holds besides the weights.

transformers' checkpoints lack what these have: the losses since the last line of the log, the random state of every
GPU, and the evaluation that was still due when the checkpoint was written.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, set_seed
from transformers.trainer_callback import ExportableState

from sharelora.support.errors import UserError, out_of_memory
from sharelora.support.reading import library_errors, require_shape
from sharelora.support.text import one_line
from sharelora.trainer.engines import shard_state, whole_state
from sharelora.trainer.serialization import load_state

logger = logging.getLogger(__name__)

STATE = "training_state.safetensors"
TRAINER_STATE = "trainer_state.json"
# Everything in the file; all of it must be there to resume.
PARTS = frozenset(
    "optimizer scheduler scaler processes total_loss last_logged unevaluated epoch_end_is_due stopped_early "
    "gradient_norm learning_rate skipped left_out gradient_norms".split()
)

# Of what kind some of these have to be, see `sharelora.support.reading`.
_KINDS: Mapping[str, Any] = {
    **{"processes": [{"random": dict, "loss": object}], "last_logged": int, "unevaluated": bool},
    **{"epoch_end_is_due": bool, "stopped_early": bool},
}


@dataclass
class Position:
    """Where a run is between two updates.

    Attributes:
        epoch_over: the callbacks for the end of the epoch have been called.
        unevaluated: an evaluation is due, and was put off or interrupted.
        saved: the update whose checkpoint was written last.
        last: gradient norm and learning rate of the last update, for the line that is logged after an epoch.
    """

    epoch_over: bool = False
    unevaluated: bool = False
    saved: int = -1
    last: tuple[Any, float | None] = (None, None)


@dataclass(frozen=True)
class Losses:
    """The training losses so far.

    Attributes:
        running: this process's sum since the last line of the log.
        total: the sum of all updates before that line.
        last_logged: the update of that line.
    """

    running: float
    total: float
    last_logged: int


@dataclass(frozen=True)
class Resumed:
    """Where a resumed run continues.

    Attributes:
        losses: so far.
        stopped_early: a callback had ended the training.
        evaluation_due: an evaluation was put off or interrupted.
        epoch_end_due: the callbacks for the end of the epoch have not been called.
    """

    losses: Losses
    stopped_early: bool
    evaluation_due: bool
    epoch_end_due: bool


class ExactState(TrainerCallback):
    """Collect the state of a run for a checkpoint, and put it back; as a callback it follows where the run is.

    Args:
        resume: called when training begins: the trainer takes up what was loaded.

    Attributes:
        position: where the run is.
        loaded: the state of the checkpoint that the run resumes from; None for a new run.
    """

    def __init__(self, resume: Callable[[], None]) -> None:
        self.resume = resume
        self.position = Position()
        self.loaded: dict[str, Any] | None = None
        self._random: RandomState | None = None  # that training resumes with

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Resume, before the first update."""
        self.resume()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note that an epoch is under way."""
        self.position.epoch_over = False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note that an epoch is over."""
        self.position.epoch_over = True

    def collect(
        self,
        optimization: tuple[Any, Any, Any],
        losses: Losses,
        progress: tuple[TrainerState, TrainerControl],
        others: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Return everything besides the weights, of all processes together; every process must call it.

        Args:
            optimization: the optimizer, whole or sharded, the schedule, and under fp16 the loss scaler, or None.
            losses: of this process.
            progress: the Trainer's own state and control.
            others: what further parts of the trainer keep.
        """
        (optimizer, scheduler, scaler), (state, control) = optimization, progress
        step, last = state.global_step, state.max_steps
        # The last epoch may be cut short.
        epoch_ends = step > 0 and (float(state.epoch or 0).is_integer() or step >= last)
        norm, rate = self.position.last
        return {
            "optimizer": whole_state(optimizer.state_dict()),
            "scheduler": scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "processes": gather_object([{"random": random_state(), "loss": losses.running}]),
            "total_loss": losses.total,
            "last_logged": losses.last_logged,
            "unevaluated": self.position.unevaluated,
            "epoch_end_is_due": epoch_ends and not self.position.epoch_over,
            "stopped_early": control.should_training_stop and step < last,
            "gradient_norm": None if norm is None else float(norm),
            "learning_rate": rate,
            **others,
        }

    def load(self, file: Path, optimizer: Any, scheduler: Any) -> dict[str, Any]:
        """Read a state, put the optimizer and the schedule back, and return all of it.

        Raises:
            UserError: the file is damaged, or is of another optimizer or schedule.
        """
        loaded: dict[str, Any] = load_state(file, PARTS)
        require_shape(loaded, _KINDS, file)
        settings = [{name: group[name] for name in _SETTINGS if name in group} for group in optimizer.param_groups]
        rates = getattr(scheduler, "base_lrs", None)
        try:
            optimizer.load_state_dict(shard_state(loaded["optimizer"], optimizer))
            scheduler.load_state_dict(loaded["scheduler"])
        except Exception as error:  # whatever a state of another kind breaks in torch
            if out_of_memory(error):
                raise
            raise misfit(file, error) from error
        _keep_settings(optimizer, scheduler, settings, rates)
        self.loaded = loaded
        return loaded

    def take_up(self, step: int, seed: int, rank: int, processes: int) -> Resumed | None:
        """Restore the run's position, and choose the random numbers of this process.

        Args:
            step: updates so far.
            seed: of the run.
            rank: of this process.
            processes: how many train together.

        Returns:
            Where the run continues; None for a new run.
        """
        self.position = Position()
        if self.loaded is None:
            if rank > 0:  # or all processes would drop out the same of different rows
                derive_random_state(seed, 0, rank)
            return None
        saved = self.loaded
        self.position = Position(saved=step, last=(saved["gradient_norm"], saved["learning_rate"]))
        before = saved["processes"]
        if len(before) == processes:
            self._random, running = before[rank]["random"], before[rank]["loss"]
        else:
            logger.warning(
                "number of processes: %d, before %d; weights, optimizer and the position in the data are the same; "
                "random numbers, such as those of dropout, start afresh from the seed, the update and the rank",
                processes, len(before),
            )  # fmt: skip
            derive_random_state(seed, step, rank)
            self._random, running = random_state(), sum(process["loss"] for process in before) / len(before)
        losses = Losses(running, saved["total_loss"], saved["last_logged"])
        return Resumed(losses, saved["stopped_early"], saved["unevaluated"], saved["epoch_end_is_due"])

    def restore_random(self) -> None:
        """Put the random generators into the state that training resumes with, if it does."""
        if self._random is not None:
            with library_errors("the random state of the checkpoint cannot be restored", "use another checkpoint"):
                set_random_state(self._random)

    def keep_random(self) -> None:
        """Let training resume with the random generators as they are now."""
        self._random = random_state()


# Of an optimizer's groups: what flags say, where the rest is what updates have made.
_SETTINGS = ("initial_lr", "weight_decay", "betas", "eps", "momentum")


def _keep_settings(
    optimizer: Any, scheduler: Any, settings: Sequence[Mapping[str, Any]], rates: Sequence[float] | None
) -> None:
    """Let an optimizer and a schedule that were put back go on with this run's flags, not those of the checkpoint.

    They differ with --resume_anyway alone; where they are equal nothing changes.

    Args:
        optimizer, scheduler: as they are now.
        settings: of each group, before they were put back.
        rates: of the schedule, before it was put back; None for one without.
    """
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    if rates is None or list(scheduler.base_lrs) == list(rates):
        return
    factors = [now / before if before else 1.0 for now, before in zip(rates, scheduler.base_lrs, strict=True)]
    scheduler.base_lrs = list(rates)
    for group, factor in zip(optimizer.param_groups, factors, strict=True):
        group["lr"] *= factor


def misfit(path: Path, error: Exception) -> UserError:
    """Return the error for a checkpoint that does not fit a run."""
    return UserError(
        f"{path} does not fit this run: {one_line(error)}; need the settings that it was written "
        "with; choose another --output_dir, or --overwrite_output_dir to start afresh"
    )


def save_trainer_state(state: TrainerState, stateful: Iterable[Any], file: Path) -> None:
    """Write the Trainer's own state, with that of the callbacks that have one."""
    states: Any = {type(item).__name__: item.state() for item in stateful if isinstance(item, ExportableState)}
    state.stateful_callbacks = states
    state.save_to_json(str(file))


def restore_callbacks(state: TrainerState, callbacks: Iterable[Any]) -> None:
    """Put callbacks into the state that a checkpoint has of them, which the Trainer does for some only."""
    states: Any = state.stateful_callbacks or {}
    for callback in callbacks:
        if isinstance(callback, ExportableState) and type(callback).__name__ in states:
            vars(callback).update(states[type(callback).__name__]["attributes"])


RandomState = dict[str, Any]


def random_state() -> RandomState:
    """Return the state of every generator of this process: Python, numpy, torch, and each GPU that it may use."""
    # One process may spread a model over several GPUs, each of which draws its own dropout.
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: RandomState) -> None:
    """Put every generator into a state that `random_state` returned; GPUs that are gone are left out."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for device, cuda in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(cuda, device)


def derive_random_state(seed: int, step: int, rank: int) -> None:
    """Seed every generator with a number of this process's own that can be had again.

    Args:
        seed: of the run.
        step: updates so far.
        rank: of this process.
    """
    set_seed(int.from_bytes(hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()[:4], "big"))
