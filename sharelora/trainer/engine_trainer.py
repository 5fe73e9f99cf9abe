"""The Trainer, changed so that models and optimizers that an engine cuts into parts go in whole and come out whole."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import Trainer

from sharelora.support.errors import UserError
from sharelora.trainer.engines import engine_of
from sharelora.trainer.sharding import is_cut, whole_weights
from sharelora.trainer.zero import Backward, WholeOptimizer


class EngineTrainer(Trainer):
    """The Trainer on any engine."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._groups: list[tuple[dict[str, Any], list[nn.Parameter]]] = []

    def whole_weights(self) -> dict[str, Tensor] | None:
        """Return what is trained, put together from all processes; None where each has all of it."""
        return whole_weights(self.model)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        # Whole matrices go into a whole model only: before it is cut.
        if resume_from_checkpoint is not None and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            self._load_from_checkpoint(resume_from_checkpoint)
        # The Trainer would look for DeepSpeed's own checkpoints.
        theirs = None if self.is_deepspeed_enabled else resume_from_checkpoint
        prepared = super()._prepare_for_training(max_steps, train_dataloader, theirs)
        if self.is_deepspeed_enabled:
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
        self._require_engine()
        return prepared

    def _require_engine(self) -> None:
        """See to it that what was asked for has happened: on some devices accelerate passes over it without a word."""
        engine = engine_of()
        if engine == "fsdp2" and not is_cut(self.model):
            raise UserError(
                "FSDP2 was asked for and the model is not cut; need GPUs; use scripts/accelerate/ddp_cpu.yaml"
            )
        if engine in ("zero2", "zero3") and not isinstance(self.optimizer, WholeOptimizer):
            raise UserError(
                "DeepSpeed was asked for and accelerate does not use it; use scripts/accelerate/ddp.yaml (ddp_cpu.yaml "
                "without GPUs)"
            )

    def create_optimizer(self, model: Any = None) -> Optimizer:
        """Make the optimizer, and remember its groups, of which DeepSpeed keeps neither matrices nor empty ones."""
        made = super().create_optimizer(model)
        if self.is_deepspeed_enabled:
            self._groups = [(group, list(group["params"])) for group in made.param_groups]
        return made

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        """Make the schedule, on an optimizer that waits for the Trainer: the last moment to put one in."""
        wrapped = getattr(self.accelerator, "deepspeed_engine_wrapped", None)  # there under DeepSpeed alone
        if wrapped is not None and not isinstance(self.optimizer, WholeOptimizer):
            self.accelerator.deepspeed_engine_wrapped = Backward(wrapped.engine)
            groups, matrices = zip(*self._groups, strict=True)
            self.optimizer = WholeOptimizer(wrapped.engine, groups, matrices)
        return super().create_scheduler(num_training_steps, optimizer)
