"""Matrices that an engine has cut into parts: put together for files and logs, cut again when a run goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from sharelora.trainer.zero import WholeOptimizer, gathered, is_partitioned
from sharelora.trainer.zero import holds as held_by_zero
from sharelora.trainer.zero import whole_gradient as zero_gradient


def whole(value: Tensor) -> Tensor:
    """Return a matrix in one piece; every process that has a part must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def is_cut(model: Any) -> bool:
    """Whether an engine has cut a model into parts, which for the time of a forward pass may be together."""
    return isinstance(model, FSDPModule) or is_partitioned(model)


def whole_weights(model: Any) -> dict[str, Tensor] | None:
    """Return what is trained of a model that was cut, on the CPU, by the model's own names; None for a whole model.

    Every process must ask.
    """
    if not is_cut(model):
        return None
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if is_partitioned(model):
        return gathered(trained)
    state = model.state_dict()  # which first takes apart again what an evaluation has left together
    return {name: whole(state[name].detach()).cpu() for name in trained}


def whole_gradient(parameter: nn.Parameter) -> Tensor | None:
    """Return a matrix's gradient in one piece, before the optimizer's update; every process must ask."""
    if held_by_zero(parameter):
        return zero_gradient(parameter)
    return None if parameter.grad is None else whole(parameter.grad)


def clips_later(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether gradients are clipped only with the update, so that until then they are as they were."""
    return any(held_by_zero(parameter) for parameter in parameters)


def whole_state(state: Any) -> Any:
    """Return an optimizer's state with every matrix in one piece on the CPU, as one process has it.

    Every process must ask.
    """
    if isinstance(state, DTensor):
        return whole(state).cpu()
    if isinstance(state, Mapping):
        return {key: whole_state(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(whole_state(value) for value in state)
    return state


def cut_state(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Cut an optimizer's state as its parameters are cut; nothing changes where they are whole, or where it does so.

    Args:
        state: as `Optimizer.state_dict` of one process.
        optimizer: the one that will take it.
    """
    if isinstance(optimizer, WholeOptimizer):
        return state
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    found = {index: _cut(values, parameters[index]) for index, values in state["state"].items()}
    return {**state, "state": found}


def _cut(values: dict[str, Any], parameter: Tensor) -> dict[str, Any]:
    if not isinstance(parameter, DTensor):
        return values
    mesh, placements = parameter.device_mesh, parameter.placements

    def part(value: Any) -> Any:
        # A count of updates is a number, the same for all.
        alike = isinstance(value, Tensor) and value.shape == parameter.shape
        return distribute_tensor(value.to(parameter.device), mesh, placements) if alike else value

    with torch.no_grad():
        return {name: part(value) for name, value in values.items()}
