"""Engines that shard a model or its optimizer: matrices go in whole and come out whole (FSDP2, ZeRO-2, ZeRO-3).

With DDP, and in a single process, everything is whole already, and nothing here changes anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from sharelora.support.errors import UserError
from sharelora.trainer.launch import engine_of
from sharelora.trainer.zero import (
    DeferredUpdate,
    WholeOptimizer,
    gathered,
    held_by_zero,
    is_partitioned,
    zero_gradient,
)


class EngineOptimizer:
    """The optimizer of a run, on whatever engine: under ZeRO with whole states, and updates when the Trainer says so.

    Args:
        zero: the engine is DeepSpeed's ZeRO.
    """

    def __init__(self, zero: bool) -> None:
        self.zero = zero
        self._groups: list[tuple[dict[str, Any], list[nn.Parameter]]] = []

    def remember(self, optimizer: Optimizer) -> Optimizer:
        """Note the groups of a new optimizer: DeepSpeed keeps neither their matrices nor empty groups."""
        if self.zero:
            self._groups = [(group, list(group["params"])) for group in optimizer.param_groups]
        return optimizer

    def wrap(self, accelerator: Any, optimizer: Any) -> Any:
        """Return the optimizer to train with, once accelerate has prepared it."""
        wrapped = getattr(accelerator, "deepspeed_engine_wrapped", None)  # set under DeepSpeed alone
        if wrapped is None or isinstance(optimizer, WholeOptimizer):
            return optimizer
        accelerator.deepspeed_engine_wrapped = DeferredUpdate(wrapped.engine)
        groups, matrices = zip(*self._groups, strict=True)
        return WholeOptimizer(wrapped.engine, groups, matrices)


def set_rate_of_b(optimizer: Optimizer, model: nn.Module, ratio: float) -> None:
    """Give the B matrices of adapters a learning rate of their own (LoRA+, Hayou et al. 2024).

    Args:
        optimizer: a new one, of the model's trained parameters.
        model: with adapters.
        ratio: of their rate to that of all others.

    Raises:
        UserError: the model has no B that is trained.
    """
    ours = {id(weight) for name, weight in model.named_parameters() if "lora_B" in name and weight.requires_grad}
    if not ours:
        raise UserError(
            f"found --loraplus_lr_ratio {ratio:g}, and no B of an adapter is trained; need a low-rank adapter; drop it"
        )
    for group in list(optimizer.param_groups):
        split: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for weight in group["params"]:
            split[id(weight) in ours].append(weight)
        group["params"] = split[False]
        if split[True]:
            optimizer.add_param_group({**group, "params": split[True], "lr": group["lr"] * ratio})


def require_engine(model: Any, optimizer: Any) -> None:
    """Check that the engine the launcher chose is at work: on some devices accelerate silently ignores it.

    Raises:
        UserError: it is not.
    """
    engine = engine_of()
    if engine == "fsdp2" and not is_sharded(model):
        raise UserError(
            "FSDP2 was asked for and the model is not sharded; need GPUs; use scripts/accelerate/ddp_cpu.yaml"
        )
    if engine in ("zero2", "zero3") and not isinstance(optimizer, WholeOptimizer):
        raise UserError(
            "DeepSpeed was asked for and accelerate does not use it; use scripts/accelerate/ddp.yaml (ddp_cpu.yaml "
            "without GPUs)"
        )


def is_sharded(model: Any) -> bool:
    """Whether an engine has sharded a model's weights; during a forward pass they may be together."""
    return isinstance(model, FSDPModule) or is_partitioned(model)


def whole(value: Tensor) -> Tensor:
    """Return a matrix in one piece; every process that has a part must call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_weights(model: Any) -> dict[str, Tensor] | None:
    """Return the trained weights of a sharded model, on the CPU, by the model's own names; None for a whole model.

    Every process must call it.
    """
    if not is_sharded(model):
        return None
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if is_partitioned(model):
        return gathered(trained)
    state = model.state_dict()  # which first shards again what an evaluation has left together
    return {name: whole(state[name].detach()).cpu() for name in trained}


def whole_gradient(parameter: nn.Parameter) -> Tensor | None:
    """Return a matrix's gradient in one piece, before the optimizer's update; every process must call it."""
    if held_by_zero(parameter):
        return zero_gradient(parameter)
    return None if parameter.grad is None else whole(parameter.grad)


def clips_later(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether gradients are clipped only during the update, and until then are as they were."""
    return any(held_by_zero(parameter) for parameter in parameters)


def whole_state(state: Any) -> Any:
    """Return an optimizer's state with every matrix in one piece on the CPU, as a single process has it.

    Every process must call it.
    """
    if isinstance(state, DTensor):
        return whole(state).cpu()
    if isinstance(state, Mapping):
        return {key: whole_state(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(whole_state(value) for value in state)
    return state


def shard_state(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Shard an optimizer's state as its parameters are; it stays as it is where they are whole, or under ZeRO.

    Args:
        state: as `Optimizer.state_dict` of a single process.
        optimizer: the one that will take it.
    """
    if isinstance(optimizer, WholeOptimizer):  # it shards by itself
        return state
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    with torch.no_grad():
        sharded = {
            index: {name: _shard_like(parameters[index], value) for name, value in values.items()}
            for index, values in state["state"].items()
        }
    return {**state, "state": sharded}


def _shard_like(parameter: Tensor, value: Any) -> Any:
    # A count of updates is a single number, the same for all.
    if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value
