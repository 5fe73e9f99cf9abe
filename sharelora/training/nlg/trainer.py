"""The Trainer of this job: smoothed loss on the text, LoRA's optimizer and schedules, perplexity."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers.trainer_utils import EvalLoopOutput

from sharelora.training.nlg.options import NlgOptions
from sharelora.training.nlg.schedule import SCHEDULES, Factor, cycle, read_cycle
from sharelora.training.trainer import ShareTrainer

MOST = 700.0  # exp of more overflows a float


def without_dropout(model: nn.Module) -> None:
    """Switch off every dropout of a model but that of its adapters, as LoRA's GPT-2 has none."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and "lora_" not in name:
            module.p = 0.0


class UncorrectedAdamW(Optimizer):
    """AdamW as LoRA's script has it: without the correction of its averages for their start at zero.

    Its first updates are several times larger.

    Args:
        params: as for every optimizer of torch.
        lr: learning rate.
        betas: how slowly the averages of gradient and squared gradient change.
        eps: added to the root of the latter.
        weight_decay: part of each weight, times lr, that an update takes away.
    """

    def __init__(
        self, params: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        (slow, slower), mean, square = group["betas"], state["mean"], state["square"]
        mean.lerp_(grad, 1 - slow)
        square.mul_(slower).addcmul_(grad, grad, value=1 - slower)
        parameter.addcdiv_(mean, square.sqrt().add_(group["eps"]), value=-group["lr"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])


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
        super().__init__(*args, **kwargs)
        self.options = options

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return what weight decay works on: everything, as in LoRA's script, unless biases are left out."""
        names = [name for name, _ in model.named_parameters()]
        return [name for name in names if not (self.options.no_decay_bias and "bias" in name)]

    def learning_rate_factor(self, num_training_steps: int) -> Factor:
        """Return the schedule that the options name: update -> factor of the learning rate."""
        options = self.options
        if options.scheduler == "cycle":
            return cycle(read_cycle(options.i_steps, options.i_lrs), self.args.learning_rate)
        return SCHEDULES[options.scheduler](self.args.get_warmup_steps(num_training_steps), num_training_steps)

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
