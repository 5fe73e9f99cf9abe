"""Adapted layers: those of PEFT's LoRA, with a fast forward for the usual case."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import LoraConfig
from peft.import_utils import is_bnb_4bit_available, is_bnb_available
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sharelora.plan.site import input_of
from sharelora.tuner.bank import MatrixView, version
from sharelora.tuner.kernels import fused, reference
from sharelora.tuner.kernels.fused import keep_mask

# Names of the matrices that an A is made of, how often they were written to, and whether they are trained.
MatrixKey = tuple[tuple[str, ...], int, bool]
# Up to so many, thin products in 16 bits take longer on a CPU than in fp32: what is around them counts.
FEW_ROWS = 8
# The functions that pack what autograd saves now: each checkpointed region has its own, and its recomputation others.
_saving_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None)


@dataclass
class _Pending:
    """Projections of one input that some siblings have yet to fetch."""

    x: weakref.ref[Tensor]
    state: tuple[Any, ...]
    projections: dict[MatrixKey, Tensor]
    waiting: list[ShareLayer]
    graph_freed: bool = False


@dataclass(eq=False)
class Siblings:
    """Layers that seem to read the same input: where they do, their A-projections are one GEMM.

    So is the GEMM of the gradients of their As. That they belong together is a guess from their names; it is made good
    at each call, and a member that reads another tensor computes its own.

    Attributes:
        members: the layers, in model order.
        one_mask: names of the adapters whose members drop the same numbers of their input. Members of other adapters
            draw a mask each, as in LoRA, and so have no projection in common while they drop any.
    """

    members: list[ShareLayer] = field(default_factory=list)
    one_mask: set[str] = field(default_factory=set)
    _pending: dict[str, _Pending] = field(default_factory=dict, repr=False)

    def project(self, x: Tensor, original_x: Tensor, adapter: str, layer: ShareLayer) -> Tensor:
        """Return h = A drop(x) of one layer, computing those of all members when the input is new.

        Args:
            x: the input, (..., D_in), in the dtype to compute in.
            original_x: the tensor that the layer was called with. That siblings are called with the very same one is
                what shows that they read the same input.
            adapter: name of the adapter.
            layer: the member that asks.

        Returns:
            (N, r) with N = B * T.
        """
        if original_x.is_inference():
            # Nothing tells whether such a tensor was written to since a sibling saw it.
            return fused.down(x, [layer.view_a(adapter).weight.to(x)], layer.draw_mask(x, adapter))[0]
        pending = self._pending.get(adapter)
        key = _matrix_key(layer.view_a(adapter))
        state = (x.dtype, x.device, *_state(original_x), layer.drop_probability(adapter))
        if (
            pending is None
            or pending.x() is not original_x
            or pending.state != state
            or pending.graph_freed
            or key not in pending.projections
            # It has had its own: this is another call, even if a sibling has never fetched what was computed for it.
            or layer not in pending.waiting
        ):
            members = [m for m in self.members if adapter in m.lora_A and m.together(adapter)]
            # Members that share an A share its projection, and so its gradient is one GEMM as well.
            views = {_matrix_key(view): view for view in (member.view_a(adapter) for member in members)}
            projected = fused.down(x, [view.weight.to(x) for view in views.values()], layer.draw_mask(x, adapter))
            projections = dict(zip(views, projected, strict=True))
            pending = self._pending[adapter] = _Pending(weakref.ref(original_x), state, projections, members)
            _watch_backward(projected[0], pending)
        pending.waiting.remove(layer)
        if not pending.waiting:
            # Nothing may outlive its use: a projection holds the graph below it.
            self._pending.pop(adapter, None)
        return pending.projections[key]

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles of a model start without pending projections.
        return {"members": self.members, "one_mask": self.one_mask, "_pending": {}}


def _matrix_key(view: MatrixView) -> MatrixKey:
    return view.names, view.version, any(matrix.requires_grad for matrix in view.parameters())


def _state(x: Tensor) -> tuple[Any, ...]:
    """Return what a projection depends on besides its matrix, the identity of its input x, and the dropout."""
    # What one checkpointed region computes is gone when another is computed again.
    pack, _ = _saving_hooks(True) or (None, None)
    return version(x), x.requires_grad, torch.is_grad_enabled(), id(pack)


def _watch_backward(projection: Tensor, pending: _Pending) -> None:
    """Note when a backward pass frees the graph of a projection: a sibling that is called later needs a new one."""
    if projection.grad_fn is None:
        return
    watched = weakref.ref(pending)

    def freed(_: Any) -> None:
        if (found := watched()) is not None:
            found.graph_freed = True
            found.projections.clear()

    projection.grad_fn.register_prehook(freed)


def _dense_base(layer: nn.Module, device: torch.device) -> fused.Base | None:
    """Return the frozen dense weight of a layer, or None: quantised, trained, on another device, of another kind."""
    transposed = type(layer) is Conv1D
    if not (transposed or type(layer) is nn.Linear):
        return None
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or "forward" in vars(layer):
        # Someone watches or replaces the layer's own forward, as accelerate does to offload weights.
        return None
    weight, bias = cast(Tensor, layer.weight), cast(Tensor | None, layer.bias)
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        return None
    # A sharded or offloaded weight is complete only inside the layer's own forward.
    plain = type(weight.data) is Tensor and weight.device == device
    return fused.Base(weight, bias, transposed) if plain else None


if TYPE_CHECKING:
    _LoraLayer = lora.Linear
else:
    _LoraLayer = object  # a mixin: the classes below put one of PEFT's layers behind it


class ShareLayer(_LoraLayer):
    """What ShareLoRA adds to a LoRA layer of PEFT: a fast path for one active, plain, unmerged adapter.

    Everything else (several active adapters, mixed batches, DoRA, merged weights) is left to PEFT, which sees the
    matrices through the views in `lora_A` and `lora_B`.
    """

    siblings: Siblings | None = None  # set by `group_siblings`
    # A and B by adapter, dtype and device, as they were first computed with; None outside of `unchanging`.
    kept: dict[tuple[str, torch.dtype, torch.device], tuple[Tensor, Tensor]] | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the adapted output, (..., D_out), for an input (..., D_in)."""
        adapter = None if args or kwargs else self._plain_adapter()
        if adapter is None:
            return super().forward(x, *args, **kwargs)
        if torch.compiler.is_compiling() or fused.transformed():
            return self._formula(x, adapter)
        device = x.device.type
        # Devices without autocast, such as meta, may not even be asked whether it is enabled.
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return self._fast(x, x, adapter)
        # What autocast would do to each matrix product, done once.
        with torch.autocast(device, enabled=False):
            return self._fast(x.to(torch.get_autocast_dtype(device)), x, adapter)

    def view_a(self, adapter: str) -> MatrixView:
        """Return the layer's view of its A."""
        return cast(MatrixView, self.lora_A[adapter])

    def view_b(self, adapter: str) -> MatrixView:
        """Return the layer's view of its B."""
        return cast(MatrixView, self.lora_B[adapter])

    # nn.Module._replicate_for_data_parallel copies attributes as they are: with siblings in common, the threads of
    # nn.DataParallel would hand each other their projections.
    def _replicate_for_data_parallel(self) -> ShareLayer:
        replica = cast(ShareLayer, super()._replicate_for_data_parallel())
        replica.siblings = None
        return replica

    def _plain_adapter(self) -> str | None:
        """Return the one active adapter if the fast path can serve it, or None."""
        if self.disable_adapters or self.merged:
            return None
        active = [name for name in self.active_adapters if name in self.lora_A]
        # A variant, such as DoRA, has its own forward; the kernels know no bias of B.
        plain = len(active) == 1 and active[0] not in self.lora_variant and not self.lora_bias[active[0]]
        return active[0] if plain else None

    def _formula(self, x: Tensor, adapter: str) -> Tensor:
        """The paper's formula, for a compiler to fuse and for `torch.func` to transform."""
        y = self.base_layer(x)
        dropped = self.lora_dropout[adapter](x).to(y)
        a, b = self.view_a(adapter).weight.to(y), self.view_b(adapter).weight.to(y)
        return y + reference.lora_delta(dropped, a, b, self.scaling[adapter])

    def _fast(self, x: Tensor, original_x: Tensor, adapter: str) -> Tensor:
        """The kernels, for an input in the dtype to compute in and the tensor that the layer was called with."""
        base = _dense_base(self.base_layer, x.device)
        if self.kept is not None and not (self.training or torch.is_grad_enabled()):
            return self._without_graph(x, base, adapter, self.kept)
        b = self.view_b(adapter).weight
        # The 1 / (1 - p) of dropout: here it costs N * r, on the input N * D_in.
        scale = self.scaling[adapter] / (1 - self.drop_probability(adapter))
        if base is None:
            y = self.base_layer(x)
            return fused.add(y, self._project(x.to(y), original_x, adapter), b.to(y), scale)
        if self.together(adapter) is None:
            a = self.view_a(adapter).weight.to(x)
            return fused.adapted(x, base, a, b.to(x), scale, self.draw_mask(x, adapter))
        return fused.up(x, base, self._project(x, original_x, adapter), b.to(x), scale)

    def _without_graph(
        self,
        x: Tensor,
        base: fused.Base | None,
        adapter: str,
        kept: dict[tuple[str, torch.dtype, torch.device], tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Three matrix products and nothing else: what a text's next token costs is mostly what surrounds them."""
        rows = x.reshape(-1, x.shape[-1])
        y = self.base_layer(rows) if base is None else fused.base_forward(rows, *base)
        # Thin products of few rows, and all in fp16, take a CPU longer than in fp32.
        slow = rows.device.type == "cpu" and (rows.shape[0] <= FEW_ROWS or y.dtype is torch.float16)
        dtype = torch.promote_types(y.dtype, torch.float32) if slow else y.dtype
        key = (adapter, dtype, y.device)
        if key not in kept:
            a, b = self.view_a(adapter).weight, self.view_b(adapter).weight
            kept[key] = a.to(y.device, dtype).t(), b.to(y.device, dtype).t()
        a, b = kept[key]
        h = rows.to(y.device, dtype) @ a
        if base is None:  # what another layer has returned may not be written to
            y = y.clone()
        scale = self.scaling[adapter]
        y = y.addmm_(h, b, alpha=scale) if dtype is y.dtype else y.add_(h @ b, alpha=scale)
        return y.view(*x.shape[:-1], y.shape[-1])

    def _project(self, x: Tensor, original_x: Tensor, adapter: str) -> Tensor:
        siblings = self.together(adapter)
        if siblings is not None:
            return siblings.project(x, original_x, adapter, self)
        return fused.down(x, [self.view_a(adapter).weight.to(x)], self.draw_mask(x, adapter))[0]

    def together(self, adapter: str) -> Siblings | None:
        """Return the siblings with which this layer has a projection in common now, or None."""
        if self.siblings is None or (self.drop_probability(adapter) and adapter not in self.siblings.one_mask):
            return None
        return self.siblings

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


@contextmanager
def unchanging(model: nn.Module) -> Iterator[None]:
    """Let adapted layers keep their matrices in the dtype that they compute in, while nothing trains or writes to them.

    Adapters of a 16-bit base are fp32: casting them again for every token of a text takes longer than using them.
    """
    layers = [module for module in model.modules() if isinstance(module, ShareLayer)]
    before = [layer.kept for layer in layers]
    for layer in layers:
        layer.kept = {} if layer.kept is None else layer.kept
    try:
        yield
    finally:
        for layer, kept in zip(layers, before, strict=True):
            layer.kept = kept


# Class of the base layer -> that of the adapted one.
LAYER_CLASSES: dict[type, type[nn.Module]] = {nn.Linear: ShareLinear, Conv1D: ShareLinear}

if is_bnb_available():
    import bitsandbytes as bnb

    class ShareLinear8bit(ShareLayer, lora.Linear8bitLt):
        """An adapted 8-bit layer of bitsandbytes."""

    LAYER_CLASSES[bnb.nn.Linear8bitLt] = ShareLinear8bit

if is_bnb_4bit_available():

    class ShareLinear4bit(ShareLayer, lora.Linear4bit):
        """An adapted 4-bit layer of bitsandbytes."""

    LAYER_CLASSES[bnb.nn.Linear4bit] = ShareLinear4bit


def dispatch_share(target: nn.Module, adapter_name: str, config: LoraConfig, **kwargs: Any) -> nn.Module | None:
    """Return the adapted layer around a base layer, or None to leave it to a dispatcher of PEFT.

    It has the form of PEFT's dispatchers (`peft.tuners.lora.layer.dispatch_default`). PEFT's own layers work over the
    same views.
    """
    base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    layer_class = LAYER_CLASSES.get(type(base))
    dense = type(base) in (nn.Linear, Conv1D)
    if (
        layer_class is None
        or kwargs.get("parameter_name") is not None
        or (dense and type(base.weight.data) is not Tensor)
    ):
        # PEFT has its own dispatchers for single parameters, and for weights of another tensor class (torchao, tensor
        # parallelism).
        return None
    if type(base) is Conv1D:
        kwargs["is_target_conv_1d_layer"] = True
    return layer_class(target, adapter_name, config=config, **kwargs)


def group_siblings(layers: dict[str, nn.Module], one_mask: set[str]) -> None:
    """Let the layers that by name and width seem to read the same input know each other.

    Args:
        layers: module path -> adapted layer.
        one_mask: names of the adapters whose siblings share a dropout mask.
    """
    groups: dict[tuple[str, ...], list[ShareLayer]] = {}
    for path, layer in layers.items():
        if isinstance(layer, ShareLayer):
            layer.siblings = None
            groups.setdefault(input_of(path, cast(int, layer.in_features)), []).append(layer)
    for members in groups.values():
        if len(members) > 1:
            group = Siblings(members, one_mask)
            for member in members:
                member.siblings = group
