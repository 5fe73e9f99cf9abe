"""Callbacks that watch a run: missing gradients, gradient norms of shared matrices, speed, and a line of progress."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sharelora.reporting.environment import peak_memory
from sharelora.support.errors import UserError
from sharelora.trainer.engines import clips_later, whole_gradient
from sharelora.trainer.zero import held_by_zero

logger = logging.getLogger(__name__)

# What a line of progress shows: name in the log -> a format for the number.
_SHOWN = {
    "loss": "loss {:.4f}",
    "eval_loss": "eval loss {:.4f}",
    **{f"mmlu_{split}_accuracy": f"MMLU {split} {{:.4f}}" for split in ("eval", "val", "test")},
    "learning_rate": "lr {:.2e}",
    "grad_norm": "grad {:.3f}",
    "tokens_per_second": "{:,.0f} tokens/s",
    "peak_memory_gb": "{:.2f} GB",
}


class FirstBackward(TrainerCallback):
    """Stop a run that would train nothing, or only a part: after the first backward every matrix has a gradient.

    A frozen base can lose gradients silently, e.g. a 4-bit base that an evaluation repacked (on some CPUs), or
    re-entrant checkpointing over inputs that need no gradient.
    """

    def __init__(self) -> None:
        self.checked = False
        self._arrived: set[str] = set()  # names of matrices
        self._hooks: list[Any] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Watch gradients arrive: DeepSpeed moves them elsewhere at once, and puts zeros where there are none."""
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and held_by_zero(parameter):
                # A hook must return nothing, or that would be the gradient.
                self._hooks.append(parameter.register_hook(lambda grad, name=name: self._arrived.add(name)))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Check the gradients of the first update."""
        if not self.checked:
            self.checked = True
            for hook in self._hooks:
                hook.remove()
            require_gradients(model, self._arrived)


def require_gradients(model: nn.Module, arrived: Collection[str] = ()) -> None:
    """Check that every trainable parameter has a gradient.

    Args:
        model: after a backward pass.
        arrived: names of parameters whose gradient was seen and is elsewhere.

    Raises:
        UserError: one has none.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    idle = [name for name, p in trainable.items() if p.grad is None and name not in arrived]
    if idle or not trainable:
        subject = f"{len(idle)} of {len(trainable)} trainable matrices, first {idle[0]}," if idle else "the model"
        raise UserError(
            f"{subject} got no gradient in the first backward pass; need one for each; "
            "adapt only modules that the forward pass uses, and keep checkpointing non-reentrant"
        )


def shared_matrices(model: Any) -> dict[str, nn.Parameter]:
    """Return the matrices of the active adapter that more than one site uses, by name; empty without a plan."""
    tuner = getattr(model, "base_model", None)
    plans, banks = getattr(tuner, "plans", {}), getattr(tuner, "lora_bank", {})
    return {
        matrix: banks[adapter][matrix]
        for adapter, plan in plans.items()
        for matrix, users in plan.users.items()
        if len(users) > 1
    }


def gradient_norms(matrices: Mapping[str, nn.Parameter], total: Tensor | float, clip: float) -> dict[str, float]:
    """Return the gradient norm of each matrix before clipping; every process must call it.

    The gradient of a shared matrix is a sum over its sites, so it grows with depth: clipping and learning rate do not
    mean what they mean for LoRA.

    Args:
        matrices: as `shared_matrices` returns.
        total: norm of all gradients before clipping.
        clip: max_grad_norm; 0 if nothing was clipped.
    """
    every = {name: whole_gradient(matrix) for name, matrix in matrices.items()}
    gradients = {name: gradient for name, gradient in every.items() if gradient is not None}
    if not gradients:
        return {}
    clipped = clip > 0 and not clips_later(matrices.values())
    shrunk = max(1.0, (float(total) + 1e-6) / clip) if clipped else 1.0  # undoes torch's clip_grad_norm_
    norms = torch.stack([grad.detach().float().norm().cpu() for grad in gradients.values()]) * shrunk
    return {f"grad_norm/{name}": norm for name, norm in zip(gradients, norms.tolist(), strict=True)}


class Speed(TrainerCallback):
    """Measure tokens per second of training, without evaluations and saving, and the peak memory.

    Args:
        logs: takes the values; the trainer adds them to its next line.
    """

    def __init__(self, logs: dict[str, float]) -> None:
        self.logs = logs
        self.seconds = 0.0
        self.tokens = 0
        self._since = (0.0, 0)  # time and tokens when the clock was started
        self._logged = (0.0, 0)  # seconds and tokens at the last line of the log

    def _restart(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self._since = (time.perf_counter(), int(state.num_input_tokens_seen))

    on_train_begin = on_evaluate = on_save = _restart

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Count an update."""
        self.seconds += time.perf_counter() - self._since[0]
        self.tokens += int(state.num_input_tokens_seen) - self._since[1]
        self._restart(args, state, control)
        # The last update is always logged: the Trainer sums the losses after the last line on one process only.
        control.should_log = control.should_log or state.global_step >= state.max_steps
        if control.should_log:
            seconds, tokens = self.seconds - self._logged[0], self.tokens - self._logged[1]
            self._logged = (self.seconds, self.tokens)
            self.logs["tokens_per_second"] = tokens / max(seconds, 1e-9)
            self.logs["peak_memory_gb"] = peak_memory() / 1e9

    @property
    def rate(self) -> float:
        """Tokens per second over the whole run."""
        return self.tokens / max(self.seconds, 1e-9)


class Progress(TrainerCallback):
    """One line per log: step, losses, learning rate, speed, memory, and the time left.

    Args:
        more: further values to show: name in the log -> a format for the number.
    """

    def __init__(self, more: Mapping[str, str] | None = None) -> None:
        self.shown = {**_SHOWN, **(more or {})}
        self._start: tuple[float, int] | None = None

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Start the clock with the first update: the evaluation before it says nothing about the time left."""
        self._start = self._start or (time.monotonic(), state.global_step)

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Show the line."""
        words = [text.format(logs[name]) for name, text in self.shown.items() if logs and name in logs]
        if state.is_world_process_zero and words:
            step = f"step {state.global_step}/{state.max_steps}  " if state.max_steps else ""
            left = ""
            if logs and "loss" in logs:
                start, first = self._start or (time.monotonic(), state.global_step)
                per_step = (time.monotonic() - start) / max(1, state.global_step - first)
                left = f"  {timedelta(seconds=round(per_step * (state.max_steps - state.global_step)))} left"
            logger.info("%s%s%s", step, "  ".join(words), left)
