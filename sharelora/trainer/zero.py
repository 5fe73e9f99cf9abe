"""DeepSpeed's ZeRO behind the face of one process: gradients that can be looked at, states in one piece.

DeepSpeed joins matrices to long vectors, gives each process a part of these, and updates within its backward call as
accelerate makes it. Here the update waits for the Trainer, and states have the form that one process gives them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils.deepspeed import DeepSpeedEngineWrapper, DeepSpeedOptimizerWrapper
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

State = dict[str, Any]


def is_partitioned(model: nn.Module) -> bool:
    """Whether ZeRO-3 has cut what is trained of a model into parts; its base comes cut from transformers."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters() if parameter.requires_grad)


def holds(parameter: nn.Parameter) -> bool:
    """Whether ZeRO keeps a matrix's gradient, in parts, apart from the matrix."""
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")


def whole_gradient(parameter: nn.Parameter) -> Tensor | None:
    """Return the gradient of a matrix in one piece, between backward and update; every process must ask."""
    from deepspeed.utils import safe_get_full_grad

    found: Tensor | None = safe_get_full_grad(parameter)
    return found


def gathered(matrices: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return matrices that ZeRO-3 has cut in one piece each, on the CPU; every process must ask."""
    from deepspeed import zero

    with zero.GatheredParameters(list(matrices.values())):
        return {name: value.detach().to("cpu", copy=True) for name, value in matrices.items()}


class Backward(DeepSpeedEngineWrapper):
    """What accelerate calls for a backward pass, without the update that accelerate lets follow at once."""

    def backward(self, loss: Tensor, sync_gradients: bool = True, **kwargs: Any) -> None:
        """Compute gradients and add them up.

        Args:
            loss: of a batch.
            sync_gradients: this is an update's last batch.
            kwargs: for DeepSpeed.
        """
        self.engine.set_gradient_accumulation_boundary(is_boundary=sync_gradients)
        self.engine.backward(loss, **kwargs)

    def get_global_grad_norm(self) -> float:
        """The norm of all gradients together before clipping; DeepSpeed knows it only after the update."""
        parts = [part.float().norm() for part in _gradient_parts(self.engine.optimizer)]
        total = torch.stack(parts).square().sum() if parts else torch.zeros((), device=self.engine.device)
        dist.all_reduce(total)
        return float(total.sqrt())


def _gradient_parts(optimizer: Any) -> list[Tensor]:
    """This process's parts of all gradients."""
    return [part for parts in optimizer.averaged_gradients.values() if parts for part in parts if part is not None]


class WholeOptimizer(DeepSpeedOptimizerWrapper):
    """An optimizer of DeepSpeed with the states of the one that it was made from, and updates when it is told.

    Args:
        engine: DeepSpeed's.
        groups: the parameter groups of the optimizer that it was made from, empty ones too.
        matrices: the parameters that each group had.
    """

    def __init__(self, engine: Any, groups: Sequence[State], matrices: Sequence[Sequence[nn.Parameter]]) -> None:
        super().__init__(engine.optimizer)
        self.engine = engine
        self.groups = list(groups)
        self.matrices = [list(members) for members in matrices]

    @property
    def param_groups(self) -> list[State]:
        """The groups that one process has: DeepSpeed drops those without parameters."""
        return self.groups

    def step(self, closure: Any = None) -> None:
        """Clip and update."""
        self.engine.step()
        # An update that was left out is an update to the schedule, as with one process.
        self.optimizer.overflow = False

    def drop(self) -> None:
        """Leave the update in progress out: DeepSpeed does so with gradients that are no finite numbers."""
        for part in _gradient_parts(self.optimizer):
            part.fill_(torch.nan)

    def state_dict(self) -> State:
        """Return the state as one process has it; every process must ask."""
        members = [matrix for group in self.matrices for matrix in group]
        places = iter(range(len(members)))
        groups = [
            {**_hyperparameters(group), "params": [next(places) for _ in matrices]}
            for group, matrices in zip(self.groups, self.matrices, strict=True)
        ]
        state = {index: _whole_state(matrix, self._of_a_piece()) for index, matrix in enumerate(members)}
        return {"state": {index: values for index, values in state.items() if values}, "param_groups": groups}

    def load_state_dict(self, state_dict: State) -> None:
        """Take a state as one process has it.

        Raises:
            ValueError: it is of other matrices.
        """
        members = [matrix for group in self.matrices for matrix in group]
        sizes = [len(group["params"]) for group in state_dict["param_groups"]]
        if sizes != [len(matrices) for matrices in self.matrices]:
            raise ValueError(f"the state is of groups of {sizes} matrices")
        for group, saved in zip(self.groups, state_dict["param_groups"], strict=True):
            group.update(_hyperparameters(saved))
        if state_dict["state"]:
            self._make_room(state_dict["state"][0])
            for index, matrix in enumerate(members):
                _put(matrix, state_dict["state"][index])

    def _pieces(self) -> list[Tensor]:
        """This process's part of each vector of weights."""
        inner = self.optimizer
        pieces = getattr(inner, "single_partition_of_fp32_groups", None)  # of ZeRO-2
        return list(inner.fp32_partitioned_groups_flat if pieces is None else pieces)

    def _of_a_piece(self) -> Mapping[str, Tensor]:
        """The state of one vector; empty before the first update."""
        found: Mapping[str, Tensor] = self.optimizer.optimizer.state.get(self._pieces()[0], {})
        return found

    def _make_room(self, like: Mapping[str, Any]) -> None:
        """The optimizer has no state before its first update."""
        for piece in self._pieces():
            self.optimizer.optimizer.state[piece] = {
                name: value.clone() if _counts(value) else torch.zeros_like(piece) for name, value in like.items()
            }
        link = getattr(self.optimizer, "_lazy_init_hp_params_optimizer_state", None)  # of ZeRO-2
        if link is not None:
            link()


def _hyperparameters(group: Mapping[str, Any]) -> State:
    return {name: value for name, value in group.items() if name != "params"}


def _counts(value: Tensor) -> bool:
    """Whether a value of a state is a count of updates, the same for all matrices."""
    return value.dim() == 0


def _whole_state(matrix: nn.Parameter, like: Mapping[str, Tensor]) -> State:
    """The state of a matrix, by the names in that of a vector, on the CPU."""
    from deepspeed.utils import safe_get_full_optimizer_state

    found = {
        name: value if _counts(value) else safe_get_full_optimizer_state(matrix, name) for name, value in like.items()
    }
    return {name: value.detach().to("cpu", copy=True) for name, value in found.items()}


def _put(matrix: Any, state: Mapping[str, Tensor]) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    for name, value in state.items():
        if _counts(value):
            continue
        if hasattr(matrix, "ds_id"):
            own = matrix.ds_tensor.numel()
            padded = F.pad(value.flatten(), (0, own * dist.get_world_size() - value.numel()))
            mine = padded.narrow(0, own * dist.get_rank(), own)
            safe_set_local_optimizer_state(matrix, mine.to(matrix.ds_tensor.device), name)
        else:
            safe_set_full_optimizer_state(matrix, value.to(matrix.device), name)
