"""DeepSpeed's ZeRO behind the interface of a single process: gradients that can be read, states in one piece.

DeepSpeed joins matrices into long vectors and gives each process a part of them; as accelerate calls it, it updates
within the backward pass. Here the update waits for the Trainer, and states have the form of a single process.
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
    """Whether ZeRO-3 has sharded the trained weights of a model; transformers loads the base sharded."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters() if parameter.requires_grad)


def held_by_zero(parameter: nn.Parameter) -> bool:
    """Whether ZeRO keeps a matrix's gradient, in parts, apart from the matrix."""
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")


def zero_gradient(parameter: nn.Parameter) -> Tensor | None:
    """Return the gradient of a matrix in one piece, between backward and update; every process must call it."""
    from deepspeed.utils import safe_get_full_grad  # an optional package, as everywhere below

    gradient: Tensor | None = safe_get_full_grad(parameter)
    return gradient


def gathered(matrices: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return matrices that ZeRO-3 has sharded in one piece each, on the CPU; every process must call it."""
    from deepspeed import zero

    with zero.GatheredParameters(list(matrices.values())):
        return {name: value.detach().to("cpu", copy=True) for name, value in matrices.items()}


class DeferredUpdate(DeepSpeedEngineWrapper):
    """What accelerate calls for a backward pass, without the update that would follow at once."""

    def backward(self, loss: Tensor, sync_gradients: bool = True, **kwargs: Any) -> None:
        """Compute gradients and accumulate them.

        Args:
            loss: of a batch.
            sync_gradients: this is the last batch of an update.
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
    """An optimizer of DeepSpeed with the states of the one that it was made from, which updates only in `step`.

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
        """The groups that a single process has: DeepSpeed drops those without parameters."""
        return self.groups

    def step(self, closure: Any = None) -> None:
        """Clip and update."""
        self.engine.step()
        # A skipped update counts for the schedule, as in a single process.
        self.optimizer.overflow = False

    def drop(self) -> None:
        """Skip the update in progress: DeepSpeed does so when gradients are not finite."""
        for part in _gradient_parts(self.optimizer):
            part.fill_(torch.nan)

    def state_dict(self) -> State:
        """Return the state as a single process has it; every process must call it."""
        members = [matrix for group in self.matrices for matrix in group]
        indices = iter(range(len(members)))
        groups = [
            {**_hyperparameters(group), "params": [next(indices) for _ in matrices]}
            for group, matrices in zip(self.groups, self.matrices, strict=True)
        ]
        # The state of one vector; empty before the first update.
        like: Mapping[str, Tensor] = self.optimizer.optimizer.state.get(self._pieces()[0], {})
        state = {index: _whole_state(matrix, like) for index, matrix in enumerate(members)}
        return {"state": {index: values for index, values in state.items() if values}, "param_groups": groups}

    def load_state_dict(self, state_dict: State) -> None:
        """Take a state as a single process has it.

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
            self._allocate(state_dict["state"][0])
            for index, matrix in enumerate(members):
                _set_state(matrix, state_dict["state"][index])

    def _pieces(self) -> list[Tensor]:
        """This process's part of each vector of weights."""
        inner = self.optimizer
        pieces = getattr(inner, "single_partition_of_fp32_groups", None)  # of ZeRO-2
        return list(inner.fp32_partitioned_groups_flat if pieces is None else pieces)

    def _allocate(self, like: Mapping[str, Any]) -> None:
        """Make the states that the optimizer lacks before its first update."""
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

    values = {
        name: value if _counts(value) else safe_get_full_optimizer_state(matrix, name) for name, value in like.items()
    }
    return {name: value.detach().to("cpu", copy=True) for name, value in values.items()}


def _set_state(matrix: Any, state: Mapping[str, Tensor]) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    for name, value in state.items():
        if _counts(value):
            continue
        if hasattr(matrix, "ds_id"):  # of ZeRO-3, which wants each process's own part
            own = matrix.ds_tensor.numel()
            padded = F.pad(value.flatten(), (0, own * dist.get_world_size() - value.numel()))
            mine = padded.narrow(0, own * dist.get_rank(), own)
            safe_set_local_optimizer_state(matrix, mine.to(matrix.ds_tensor.device), name)
        else:
            safe_set_full_optimizer_state(matrix, value.to(matrix.device), name)
