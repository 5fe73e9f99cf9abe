"""More devices on a machine with one: tensors that compute on the CPU, say they live elsewhere, and refuse to mix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

HERE = torch.device("cpu")


class Placed(torch.Tensor):
    """A CPU tensor under the name of another device."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor, device: torch.device | str) -> Placed:
        placed = torch.Tensor._make_wrapper_subclass(
            cls, value.shape, strides=value.stride(), dtype=value.dtype, device=device
        )
        placed.value = value
        return placed

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _inner(thing: Any) -> Any:
    return thing.value if isinstance(thing, Placed) else thing


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
    devices = {t.device for t in tensors if t.ndim} or {t.device for t in tensors}
    asked = kwargs.get("device")
    if func is not torch.ops.aten._to_copy.default and len(devices) > 1:
        raise RuntimeError(f"{func} got tensors on {sorted(map(str, devices))}")
    device = torch.device(asked) if asked is not None else next(iter(devices), HERE)
    plain = {**kwargs, "device": HERE} if asked is not None else kwargs
    found = func(*tree_map(_inner, args), **tree_map(_inner, plain))
    if func._schema.name.endswith("_"):
        return args[0]
    if device == HERE:
        return found
    return tree_map(lambda t: Placed(t, device) if isinstance(t, Tensor) else t, found)


class PretendDevices(TorchDispatchMode):
    """Within it, `.to("cpu:1")` moves a tensor to a device that does not exist."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def place(module: nn.Module, device: str) -> None:
    """Move the parameters and buffers of a module to a pretended device."""
    for part in module.modules():
        for name, value in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(Placed(value.data, device), requires_grad=value.requires_grad))
        for name, value in list(part.named_buffers(recurse=False)):
            setattr(part, name, Placed(value, device))
