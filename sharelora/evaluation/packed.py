"""Linear layers laid out for the products of one decoding: adapters merged into copies, weights packed for the CPU.

While a text grows the same weights are multiplied by a few rows, thousands of times. oneDNN multiplies faster by a
weight that it has laid out itself, above all with a large vocabulary, and an adapter costs several small operations
per layer. The model's own weights stay as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from sharelora.evaluation.batching import SHARE_OF_MEMORY, free_memory

logger = logging.getLogger(__name__)

Forward = Callable[[Tensor], Tensor]


@contextmanager
def packed(model: nn.Module, rows: int) -> Iterator[None]:
    """Let the dense fp32 layers of a model on the CPU run from packed copies of their weights.

    Adapters are merged in fp32, so outputs differ from the model's own by rounding. Nothing is changed for other
    devices and dtypes, for layers that others have hooked into, and where memory has no room for the copies.

    Args:
        model: a model in evaluation mode, whose weights do not change meanwhile; no gradients are computed.
        rows: about how many rows the layers will see at once.
    """
    weights = {name: merged for name, module in model.named_modules() if (merged := _weight_of(module)) is not None}
    inside = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, lora.LoraLayer))
    chosen = {name: found for name, found in weights.items() if not name.startswith(inside)}
    size = sum(weight.numel() * weight.element_size() for weight, _, _ in chosen.values())
    if not chosen or not _can_pack() or size > SHARE_OF_MEMORY * free_memory(torch.device("cpu")):
        yield
        return
    modules: list[nn.Module] = []

    def replace(module: nn.Module, forward: Forward) -> None:
        # An attribute of the instance stands before the method of its class.
        module.forward = forward  # type: ignore[assignment]
        modules.append(module)

    try:
        for name, (_, bias, merge) in chosen.items():
            replace(model.get_submodule(name), _packed_forward(merge(), bias, rows))
        for module in model.modules():
            if type(module) is NewGELUActivation and "forward" not in vars(module):
                # The same formula in one pass instead of eight.
                replace(module, lambda x: F.gelu(x, approximate="tanh"))
        yield
    finally:
        for module in modules:
            del module.forward


def _can_pack() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]


def _weight_of(module: nn.Module) -> tuple[Tensor, Tensor | None, Callable[[], Tensor]] | None:
    """Return a layer's weight, its bias, and what makes the weight (D_out, D_in) with its adapters; None: unfit."""
    adapters: list[str] = []
    base: Any = module
    if isinstance(module, lora.Linear):
        base = module.get_base_layer()
        adapters = [] if module.disable_adapters or module.merged else list(module.active_adapters)
        adapters = [name for name in adapters if name in module.lora_A]
        if any(name in module.lora_variant or module.lora_bias[name] for name in adapters):
            return None
    if type(base) not in (nn.Linear, Conv1D) or any(map(_watched, {module, base})):
        return None
    weight, bias = base.weight, base.bias
    if type(weight.data) is not Tensor or weight.dtype != torch.float32 or weight.device.type != "cpu":
        return None

    def merge() -> Tensor:
        with torch.no_grad():
            # Of the form of the base's weight.
            changes = [module.get_delta_weight(name) for name in adapters]  # type: ignore[operator]
            whole = sum(changes, start=weight.data)
            return whole.t().contiguous() if type(base) is Conv1D else whole

    return weight, bias, merge


def _watched(layer: nn.Module) -> bool:
    """Whether someone replaces the layer's forward, as accelerate does to offload weights."""
    return "forward" in vars(layer)


def _packed_forward(weight: Tensor, bias: Tensor | None, rows: int) -> Forward:
    with torch.no_grad():
        laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)

    def forward(x: Tensor, *args: Any, **options: Any) -> Tensor:
        output: Tensor = torch.ops.mkldnn._linear_pointwise(x, laid_out, bias, "none", [], "")
        return output

    return forward
