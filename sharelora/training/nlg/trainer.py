"""The Trainer of this job: smoothed loss on the text, LoRA's optimizer and schedules, perplexity."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from transformers.trainer_utils import EvalLoopOutput

from sharelora.training.nlg.optimizer import UncorrectedAdamW
from sharelora.training.nlg.options import NlgOptions
from sharelora.training.nlg.schedule import SCHEDULES, Factor, cycle, read_cycle
from sharelora.training.trainer import IGNORED, ShareTrainer

MOST = 700.0  # exp of more is no float any more


def text_loss(smoothing: float) -> Callable[..., Tensor]:
    """Make the loss per target token.

    Args:
        smoothing: weight of the mean of -log p over the whole vocabulary, beside that of the target.

    Returns:
        A function of the model's output, labels of shape (B, T) and the number of targets of the whole update.
    """

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        targets = labels[:, 1:]
        counted = targets != IGNORED
        # Only the positions that count become fp32: the vocabulary is wide, and inputs are half of all tokens.
        logits = outputs.logits[:, :-1][counted].float()
        total = F.cross_entropy(logits, targets[counted], label_smoothing=smoothing, reduction="sum")
        return total / (counted.sum() if num_items_in_batch is None else num_items_in_batch)

    return loss


def without_dropout(model: nn.Module) -> None:
    """Switch off every dropout of a model but that of its adapters, as LoRA's GPT-2 has none."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and "lora_" not in name:
            module.p = 0.0


class NlgTrainer(ShareTrainer):
    """The Trainer with what LoRA's script does otherwise.

    Args:
        options: objective, optimizer and schedule.
    """

    def __init__(self, *args: Any, options: NlgOptions, **kwargs: Any) -> None:
        settings = kwargs["args"]
        if not options.correct_bias:
            adam = {"betas": (settings.adam_beta1, settings.adam_beta2), "eps": settings.adam_epsilon}
            kwargs["optimizer_cls_and_kwargs"] = (UncorrectedAdamW, {"lr": settings.learning_rate, **adam})
        kwargs["compute_loss_func"] = text_loss(settings.label_smoothing_factor)
        super().__init__(*args, **kwargs)
        self.options = options

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return what weight decay works on: everything, as in LoRA's script, unless biases are left out."""
        names = [name for name, _ in model.named_parameters()]
        return [name for name in names if not (self.options.no_decay_bias and "bias" in name)]

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Make the schedule that the options name."""
        if self.lr_scheduler is None:
            found = optimizer or self.optimizer
            assert found is not None, "the Trainer makes the optimizer first"
            self.lr_scheduler = LambdaLR(found, self._factor(num_training_steps))
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _factor(self, total: int) -> Factor:
        options = self.options
        if options.scheduler == "cycle":
            return cycle(read_cycle(options.i_steps, options.i_lrs), self.args.learning_rate)
        return SCHEDULES[options.scheduler](self.args.get_warmup_steps(total), total)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate, and report the perplexity per target token too."""
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        metrics = dict(output.metrics or {})
        metrics[f"{metric_key_prefix}_perplexity"] = math.exp(min(MOST, metrics[f"{metric_key_prefix}_loss"]))
        return output._replace(metrics=metrics)
