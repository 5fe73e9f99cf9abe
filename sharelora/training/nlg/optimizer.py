"""Adam as LoRA's script has it by default: without the correction of its averages for their start at zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class UncorrectedAdamW(Optimizer):
    """AdamW without bias correction: its first updates are several times larger.

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
