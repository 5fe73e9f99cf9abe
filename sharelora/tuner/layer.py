"""Adapted layers: PEFT's LoRA layers with a fast forward for the usual case."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from peft.import_utils import is_bnb_4bit_available, is_bnb_available
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sharelora.tuner.bank import MatrixView, version
from sharelora.tuner.kernels import fused, reference
from sharelora.tuner.kernels.fused import keep_mask

# Modules of one layer that read the same input, in the names of the common architectures. This only decides which
# sites may be computed together; whether they do read the same tensor is checked at each call.
SAME_INPUT = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("query_proj", "key_proj", "value_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
)


# Names of the matrices of one A, and how often they were written to.
MatrixKey = tuple[tuple[str, ...], int]


@dataclass
class _Slot:
    """Projections of one input, waiting for the siblings that have not asked for theirs."""

    x: weakref.ref[Tensor]
    state: tuple[Any, ...]
    projections: dict[MatrixKey, Tensor]
    waiting: list[ShareLayer]


@dataclass(eq=False)
class Siblings:
    """Layers that read the same input: their A-projections are one GEMM, with one dropout mask, and so is their dA.

    Attributes:
        members: the layers, in model order.
    """

    members: list[ShareLayer] = field(default_factory=list)
    _slots: dict[str, _Slot] = field(default_factory=dict, repr=False)

    def project(self, x: Tensor, seen: Tensor, adapter: str, asking: ShareLayer) -> Tensor:
        """Return h = A drop(x) of one member, computing those of all members when the input is new.

        Args:
            x: the input, (..., D_in), in the dtype to compute in.
            seen: the tensor that the layer was called with; its identity tells whether siblings read the same input.
            adapter: name of the adapter.
            asking: the member.

        Returns:
            (N, r) with N = B * T.
        """
        slot = self._slots.get(adapter)
        key = _key(asking.view_a(adapter))
        # What a projection depends on besides its matrix and the identity of its input.
        state = (x.dtype, x.device, version(seen), torch.is_grad_enabled(), asking.drop_probability(adapter))
        fits = slot is not None and slot.x() is seen and slot.state == state and key in slot.projections
        # A member that asks twice begins anew, even if a sibling never asked.
        if slot is None or not fits or asking not in slot.waiting:
            slot = self._slots[adapter] = self._fill(x, seen, adapter, asking, state)
        slot.waiting.remove(asking)
        if not slot.waiting:
            # Nothing may outlive its use: a projection holds the graph below it.
            del self._slots[adapter]
        return slot.projections[key]

    def _fill(self, x: Tensor, seen: Tensor, adapter: str, asking: ShareLayer, state: tuple[Any, ...]) -> _Slot:
        waiting = [member for member in self.members if adapter in member.lora_A]
        # Members that share an A share its projection, and so its gradient is one GEMM as well.
        distinct = {_key(view): view for view in (member.view_a(adapter) for member in waiting)}
        matrices = [view.weight.to(x) for view in distinct.values()]
        projections = dict(zip(distinct, fused.down(x, matrices, asking.draw_mask(x, adapter)), strict=True))
        return _Slot(weakref.ref(seen), state, projections, waiting)

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles of a model start without projections in flight.
        return {"members": self.members, "_slots": {}}


def _key(view: MatrixView) -> MatrixKey:
    return view.names, view.version


def _autocast_enabled(device: str) -> bool:
    # Devices without autocast, such as meta, may not even be asked.
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _dense_base(layer: nn.Module, device: torch.device) -> fused.Base | None:
    """Return the layer's frozen dense weight; None if it is quantised, trained, elsewhere or of another kind."""
    transposed = type(layer) is Conv1D
    if not (transposed or type(layer) is nn.Linear):
        return None
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or "forward" in vars(layer):
        # Somebody watches or replaces the layer's own forward.
        return None
    weight, bias = cast(Tensor, layer.weight), cast(Tensor | None, layer.bias)
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        return None
    # A sharded or offloaded weight is there only inside the layer's own forward.
    plain = type(weight.data) is Tensor and weight.device == device
    return fused.Base(weight, bias, transposed) if plain else None


if TYPE_CHECKING:
    _Mixed = lora.Linear  # at run time a mixin that PEFT's classes come behind
else:
    _Mixed = object


class ShareLayer(_Mixed):
    """What ShareLoRA adds to a LoRA layer of PEFT: one fast path for one active, plain, unmerged adapter.

    Everything else (several active adapters, mixed batches, DoRA, merged weights) is left to PEFT, which sees the
    matrices through the views in `lora_A` and `lora_B`.
    """

    siblings: Siblings | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the adapted output, (..., D_out), for an input (..., D_in)."""
        adapter = None if args or kwargs else self._plain_adapter()
        if adapter is None:
            return super().forward(x, *args, **kwargs)
        if torch.compiler.is_compiling():
            return self._formula(x, adapter)
        if not _autocast_enabled(x.device.type):
            return self._fast(x, x, adapter)
        dtype = torch.get_autocast_dtype(x.device.type)
        with torch.autocast(x.device.type, enabled=False):
            return self._fast(x.to(dtype), x, adapter)

    def view_a(self, adapter: str) -> MatrixView:
        """Return the layer's view of its A."""
        return cast(MatrixView, self.lora_A[adapter])

    def view_b(self, adapter: str) -> MatrixView:
        """Return the layer's view of its B."""
        return cast(MatrixView, self.lora_B[adapter])

    def _replicate_for_data_parallel(self) -> ShareLayer:
        # The threads of nn.DataParallel would hand each other their projections.
        replica = cast(ShareLayer, super()._replicate_for_data_parallel())
        replica.siblings = None
        return replica

    def _plain_adapter(self) -> str | None:
        """Return the adapter that the fast path can serve, or None."""
        if self.disable_adapters or self.merged:
            return None
        active = [name for name in self.active_adapters if name in self.lora_A]
        return active[0] if len(active) == 1 and active[0] not in self.lora_variant else None

    def _formula(self, x: Tensor, adapter: str) -> Tensor:
        """The paper's formula, for a compiler to fuse."""
        y = self.base_layer(x)
        dropped = self.lora_dropout[adapter](x).to(y)
        a, b = self.view_a(adapter).weight.to(y), self.view_b(adapter).weight.to(y)
        return y + reference.lora_delta(dropped, a, b, self.scaling[adapter])

    def _fast(self, x: Tensor, seen: Tensor, adapter: str) -> Tensor:
        base = _dense_base(self.base_layer, x.device)
        b = self.view_b(adapter).weight
        scale = self.scaling[adapter] / (1 - self.drop_probability(adapter))
        if base is None:
            y = self.base_layer(x)
            h = self._project(x.to(y), seen, adapter)
            return fused.add(y, h, b.to(y), scale)
        if self.siblings is None:
            a = self.view_a(adapter).weight.to(x)
            return fused.adapted(x, base, a, b.to(x), scale, self.draw_mask(x, adapter))
        return fused.up(x, base, self._project(x, seen, adapter), b.to(x), scale)

    def _project(self, x: Tensor, seen: Tensor, adapter: str) -> Tensor:
        if self.siblings is not None:
            return self.siblings.project(x, seen, adapter, self)
        return fused.down(x, [self.view_a(adapter).weight.to(x)], self.draw_mask(x, adapter))[0]

    def drop_probability(self, adapter: str) -> float:
        """Return the rate at which inputs are dropped now: 0 outside of training."""
        dropout = self.lora_dropout[adapter]
        return dropout.p if self.training and isinstance(dropout, nn.Dropout) else 0.0

    def draw_mask(self, x: Tensor, adapter: str) -> Tensor | None:
        """Return a fresh dropout mask of x's shape, or None where nothing is dropped."""
        p = self.drop_probability(adapter)
        return keep_mask(x, p) if p else None


class ShareLinear(ShareLayer, lora.Linear):
    """An adapted `nn.Linear` or GPT-2 `Conv1D`."""


# Class of the base layer -> how to make the adapted one. A class that is missing here gets PEFT's layer, whose forward
# works over the same views.
MAKERS: dict[type, Callable[..., nn.Module]] = {
    nn.Linear: ShareLinear,
    Conv1D: partial(ShareLinear, is_target_conv_1d_layer=True),
}

if is_bnb_available():
    import bitsandbytes as bnb

    class ShareLinear8bit(ShareLayer, lora.Linear8bitLt):
        """An adapted 8-bit layer of bitsandbytes."""

    MAKERS[bnb.nn.Linear8bitLt] = ShareLinear8bit

if is_bnb_4bit_available():

    class ShareLinear4bit(ShareLayer, lora.Linear4bit):
        """An adapted 4-bit layer of bitsandbytes."""

    MAKERS[bnb.nn.Linear4bit] = ShareLinear4bit


def maker(target: nn.Module) -> Callable[..., nn.Module] | None:
    """Return what makes the adapted layer around a base layer, or None to leave that to PEFT."""
    base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    make = MAKERS.get(type(base))
    # Weights of another tensor class (torchao, tensor parallelism) have dispatchers of their own in PEFT.
    dense = type(base) in (nn.Linear, Conv1D)
    return None if dense and type(base.weight.data) is not Tensor else make


def group_siblings(layers: dict[str, nn.Module]) -> None:
    """Let the layers under one parent that read the same input know each other.

    Args:
        layers: module path -> adapted layer.
    """
    for names in SAME_INPUT:
        parents: dict[str, list[ShareLayer]] = {}
        for path, layer in layers.items():
            parent, _, name = path.rpartition(".")
            if name in names and isinstance(layer, ShareLayer):
                parents.setdefault(parent, []).append(layer)
        for members in parents.values():
            if len(members) > 1:
                group = Siblings(members)
                for member in members:
                    member.siblings = group
