"""The variants that are compared: the frozen base, LoRA by other libraries, and ours. Each is a row of data."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from sharelora import ShareLoraConfig, UserError

ATTENTION = ("q_proj", "k_proj", "v_proj")
ALL_LINEAR = (*ATTENTION, "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Adapter:
    """What every variant of a comparison has in common.

    Attributes:
        r: rank; alpha is twice as much.
        dropout: of the adapters' input.
        modules: names of the adapted modules.
        parts: of fused modules, whose weights are transposed as in GPT-2: which parts are adapted, by name. PEFT cannot
            adapt parts; there the whole module has one adapter.
    """

    r: int = 16
    dropout: float = 0.0
    modules: tuple[str, ...] = ALL_LINEAR
    parts: Mapping[str, list[bool]] | None = None

    def fields(self) -> dict[str, Any]:
        """Return the fields of PEFT's configuration.

        Both matrices start at random: gradients of zeros can be faster than those of real numbers.
        """
        common: dict[str, Any] = {"r": self.r, "lora_alpha": 2 * self.r, "lora_dropout": self.dropout}
        common |= {"target_modules": list(self.modules), "init_lora_weights": False}
        return common if self.parts is None else {**common, "fan_in_fan_out": True}


@dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes:
        library: which function attaches the adapters, a key of `LIBRARIES`.
        about: what it is, for the table.
        options: fields of the library's own configuration.
        autocast: whether the step runs under bf16 autocast, as the Trainer's `bf16=True` does.
        only: base precisions in which it differs from the other variants.
        drops: whether it differs from the other variants with dropout alone.
    """

    library: str
    about: str
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    autocast: bool = False
    only: tuple[str, ...] = ("fp32", "bf16", "nf4")
    drops: bool = False


VARIANTS: dict[str, Variant] = {
    "floor": Variant("none", "frozen base, gradient down to the embeddings"),
    "peft": Variant("peft", "PEFT LoRA as it comes: fp32 adapters"),
    "peft_bf16": Variant("peft", "PEFT LoRA, bf16 adapters", {"autocast_adapter_dtype": False}, only=("bf16",)),
    "peft_autocast": Variant("peft", "PEFT LoRA under bf16 autocast", autocast=True, only=("bf16", "nf4")),
    "loralib": Variant("loralib", "loralib, adapters in the base's dtype", only=("fp32", "bf16")),
    "none": Variant("sharelora", "ours, nothing shared (LoRA)", {"share": "none"}),
    "none_one_mask": Variant(
        "sharelora",
        "ours, nothing shared but one dropout mask for q, k, v and one for gate, up",
        {"share": "none", "share_dropout_mask": True},
        drops=True,
    ),
    "none_autocast": Variant(
        "sharelora", "ours, nothing shared, bf16 autocast", {"share": "none"}, autocast=True, only=("bf16", "nf4")
    ),
    "a": Variant("sharelora", "ours, A shared over layers", {"share": "a"}),
    "b": Variant("sharelora", "ours, B shared over layers", {"share": "b"}),
    "ab": Variant("sharelora", "ours, A and B shared over layers", {"share": "ab"}),
    "qkv": Variant(
        "sharelora",
        "ours, one A for q, k, v of a layer",
        {"share": "a", "share_modules": list(ATTENTION), "share_across": "modules"},
    ),
}


def choose(
    names: str | None, precision: str, default: tuple[str, ...] = tuple(VARIANTS), dropout: float = 0.0
) -> list[str]:
    """Return the variants to measure for a base precision.

    Args:
        names: comma-separated; None for `default`.
        precision: `fp32`, `bf16` or `nf4`.
        default: used without `names`; loralib is left out where it is not installed.
        dropout: of the adapters.

    Raises:
        UserError: an unknown variant, or loralib by name where it is not installed.
    """
    wanted = [name.strip() for name in names.split(",")] if names else list(default)
    unknown = [name for name in wanted if name not in VARIANTS]
    if unknown:
        raise UserError(f"no variant {unknown[0]!r}; need some of {', '.join(VARIANTS)}; choose with --variants")
    if importlib.util.find_spec("loralib") is None:
        if names and "loralib" in wanted:
            raise UserError("loralib is not installed; need it for the variant of that name; pip install loralib")
        wanted = [name for name in wanted if name != "loralib"]
    return [name for name in wanted if precision in VARIANTS[name].only and (dropout or not VARIANTS[name].drops)]


def _peft(model: Any, variant: Variant, adapter: Adapter) -> nn.Module:
    return get_peft_model(model, LoraConfig(**adapter.fields()), **variant.options)


def _sharelora(model: Any, variant: Variant, adapter: Adapter) -> nn.Module:
    parts: dict[str, Any] = {} if adapter.parts is None else {"enable_lora": dict(adapter.parts)}
    return get_peft_model(model, ShareLoraConfig(**adapter.fields(), **parts, **variant.options))


def _loralib(model: nn.Module, variant: Variant, adapter: Adapter) -> nn.Module:
    import loralib  # optional: an oracle, no dependency

    common = {"r": adapter.r, "lora_alpha": 2 * adapter.r, "lora_dropout": adapter.dropout}
    for path, layer in list(model.named_modules()):
        parent, _, name = path.rpartition(".")
        if name not in adapter.modules or not isinstance(layer, nn.Linear | Conv1D):
            continue
        if isinstance(layer, nn.Linear):
            adapted = loralib.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, **common)
        else:
            parts = (adapter.parts or {})[name]
            adapted = loralib.MergedLinear(
                *layer.weight.shape, enable_lora=parts, fan_in_fan_out=True, merge_weights=False, **common
            )
        nn.init.normal_(adapted.lora_B, std=adapter.r**-0.5)
        adapted.to(layer.weight.device, layer.weight.dtype)
        adapted.weight, adapted.bias = layer.weight, layer.bias
        setattr(model.get_submodule(parent), name, adapted)
    return model


LIBRARIES: dict[str, Callable[[Any, Variant, Adapter], nn.Module]] = {
    "none": lambda model, variant, adapter: model,
    "peft": _peft,
    "loralib": _loralib,
    "sharelora": _sharelora,
}


def attach(model: nn.Module, name: str, adapter: Adapter) -> nn.Module:
    """Put a variant's adapters on a model, which is changed in place.

    Returns:
        The adapted model in training mode; its trainable parameters are the adapters.
    """
    variant = VARIANTS[name]
    return LIBRARIES[variant.library](model, variant, adapter).train()


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are trained, each once."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def autocast(name: str, device: torch.device) -> torch.autocast:
    """Return the context in which a variant's forward pass runs."""
    return torch.autocast(device.type, torch.bfloat16, enabled=VARIANTS[name].autocast)
