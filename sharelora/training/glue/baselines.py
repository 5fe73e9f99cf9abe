"""Baselines for low-rank adapters: bottlenecks and prefixes.

Bottleneck adapters are those of Houlsby (1902.00751), Pfeiffer (2005.00247) and Parallel (2110.04366). PEFT has none of
them, and the `adapters` library (1.3) needs transformers 4.

Prefixes (Li and Liang 2021, 2101.00190) are trained keys and values in front of those of the text, in every layer. PEFT
passes a prefix as a cache of earlier tokens. BERT and RoBERTa then number the text's positions from behind it, so that
the frozen model is another one before anything is trained, and long texts run out of positions. Here the prefix is
added within each attention, and the positions stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharelora.support.errors import UserError

BOTTLENECK = "bottleneck"  # of the adapter within the module that it changes


class Bottleneck(nn.Module):
    """`scale * up(activation(down(x)))`, (..., D) to (..., D).

    Args:
        features: D.
        size: width of the bottleneck.
        activation: between the two maps.
        scale: of the result.
        zero: start with up at zero and down as LoRA's A; otherwise both are drawn near zero, as Houlsby et al. do.
    """

    def __init__(self, features: int, size: int, activation: Callable[[], nn.Module], scale: float, zero: bool) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(features, size), nn.Linear(size, features)
        self.activation, self.scale = activation(), scale
        if zero:
            nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
            nn.init.zeros_(self.up.weight)
        else:
            for layer in (self.down, self.up):
                nn.init.trunc_normal_(layer.weight, std=1e-2, a=-2e-2, b=2e-2)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added, (..., D)."""
        return self.scale * self.up(self.activation(self.down(x)))


@dataclass(frozen=True)
class Kind:
    """A kind of adapter: at which spots of a layer, and what is between the two maps."""

    spots: tuple[str, ...]
    activation: Callable[[], nn.Module]
    scale: float = 1.0
    zero: bool = False


KINDS: Mapping[str, Kind] = {
    "houlsby": Kind(("attention", "feed_forward"), nn.SiLU),
    "pfeiffer": Kind(("feed_forward",), nn.ReLU),
    "parallel": Kind(("beside_feed_forward",), nn.ReLU, scale=4.0, zero=True),
}


def _after(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output + getattr(module, BOTTLENECK)(output)


def _beside(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output + getattr(module, BOTTLENECK)(args[0])


def _in_residual(module: Any, args: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    # The module adds its second input, which is the input of the feed-forward network, to that network's output.
    hidden, skipped = args
    return hidden, skipped + getattr(module, BOTTLENECK)(skipped)


def _hook_after(module: nn.Module) -> None:
    module.register_forward_hook(_after)


def _hook_beside(module: nn.Module) -> None:
    module.register_forward_hook(_beside)


def _hook_residual(module: nn.Module) -> None:
    module.register_forward_pre_hook(_in_residual)


Spot = tuple[str, Callable[[nn.Module], None]]  # path within a layer, and how the adapter is hung there


@dataclass(frozen=True)
class Layout:
    """Where the layers of an architecture are, and the spots in each; all are before the residual's LayerNorm."""

    layers: str
    spots: Mapping[str, Spot]


_BERT = Layout(
    "encoder.layer",
    {
        "attention": ("attention.output.dropout", _hook_after),
        "feed_forward": ("output.dropout", _hook_after),
        "beside_feed_forward": ("output", _hook_residual),
    },
)
_DISTILBERT = Layout(
    "transformer.layer",
    {
        "attention": ("attention.out_lin", _hook_after),
        "feed_forward": ("ffn.dropout", _hook_after),
        "beside_feed_forward": ("ffn", _hook_beside),
    },
)
LAYOUTS: Mapping[str, Layout] = {
    **dict.fromkeys(("bert", "camembert", "deberta", "deberta-v2", "electra", "roberta", "xlm-roberta"), _BERT),
    "distilbert": _DISTILBERT,
}


def insert_bottlenecks(model: Any, kind: str, size: int) -> list[Bottleneck]:
    """Put adapters into every layer of an encoder; nothing is frozen or thawed.

    Args:
        model: a transformers model, which may be on the meta device.
        kind: a name in `KINDS`.
        size: width of every bottleneck.

    Returns:
        The adapters, whose weights are the model's under names with `.bottleneck.` in them.

    Raises:
        UserError: an architecture without a layout here.
    """
    layout = LAYOUTS.get(model.config.model_type)
    if layout is None:
        raise UserError(
            f"found a model of type {model.config.model_type!r} for {kind} adapters; need one of "
            f"{', '.join(sorted(LAYOUTS))}; use --method lora, share_a, full or bitfit"
        )
    bottlenecks = []
    for layer in model.base_model.get_submodule(layout.layers):
        for path, hook in (layout.spots[spot] for spot in KINDS[kind].spots):
            module = layer.get_submodule(path)
            adapter = _make(model, KINDS[kind], size)
            module.add_module(BOTTLENECK, adapter)
            hook(module)
            bottlenecks.append(adapter)
    return bottlenecks


def _make(model: Any, kind: Kind, size: int) -> Bottleneck:
    weight = next(model.parameters())
    adapter = Bottleneck(model.config.hidden_size, size, kind.activation, kind.scale, kind.zero)
    return adapter.to(device=weight.device, dtype=weight.dtype)


PREFIX = "prefix"  # name of the module that holds one
# Architectures whose attention takes earlier keys and values.
TYPES = ("bert", "camembert", "electra", "roberta", "xlm-roberta")
ATTENTION = "attention.self"
LAYERS = "encoder.layer"


class Prefix(nn.Module):
    """Keys and values of one layer, each of shape (heads, P, D / heads).

    It looks like a cache to the attention that it is given to.

    Args:
        heads: attention heads.
        length: P, how many keys and values.
        features: D / heads.
        deviation: of the initial values.
    """

    def __init__(self, heads: int, length: int, features: int, deviation: float) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.randn(heads, length, features) * deviation)
        self.values = nn.Parameter(torch.randn(heads, length, features) * deviation)

    @property
    def length(self) -> int:
        """How many keys and values there are."""
        return self.keys.shape[1]

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return the text's keys and values, (B, heads, T, D / heads), behind the prefix's: P + T of them."""
        return self._before(self.keys, keys), self._before(self.values, values)

    @staticmethod
    def _before(own: Tensor, of_text: Tensor) -> Tensor:
        return torch.cat([own.to(of_text).expand(of_text.shape[0], -1, -1, -1), of_text], dim=2)

    def widen(self, mask: Tensor | None) -> Tensor | None:
        """Return an attention mask, (B, 1, T, T), with P columns in front that everything attends to."""
        if mask is None:
            return None
        return F.pad(mask, (self.length, 0), value=True if mask.dtype == torch.bool else 0.0)


def _put_before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    prefix: Prefix = getattr(module, PREFIX)
    names = ("hidden_states", "attention_mask")
    inputs = {**dict(zip(names, args, strict=False)), **kwargs}
    mask = inputs.get("attention_mask")
    return args[2:], {**inputs, "attention_mask": prefix.widen(mask), "past_key_values": prefix}


def insert_prefixes(model: Any, length: int) -> list[Prefix]:
    """Put a prefix into every layer of an encoder; nothing is frozen or thawed.

    Args:
        model: a transformers model, which may be on the meta device.
        length: keys and values in each layer.

    Returns:
        The prefixes, whose weights are the model's under names with `.prefix.` in them.

    Raises:
        UserError: an architecture or an attention that takes none.
    """
    kind, config = model.config.model_type, model.config
    if kind not in TYPES:
        raise UserError(
            f"found a model of type {kind!r}, whose attention takes no prefix in transformers; need one of "
            f"{', '.join(TYPES)}; use another --method"
        )
    if config._attn_implementation not in ("sdpa", "eager"):
        raise UserError(f"found {config._attn_implementation} attention; a prefix needs sdpa or eager; change it")
    weight = next(model.parameters())
    features = config.hidden_size // config.num_attention_heads
    prefixes = []
    for layer in model.base_model.get_submodule(LAYERS):
        prefix = Prefix(config.num_attention_heads, length, features, config.initializer_range)
        attention = layer.get_submodule(ATTENTION)
        attention.add_module(PREFIX, prefix.to(device=weight.device, dtype=weight.dtype))
        attention.register_forward_pre_hook(_put_before, with_kwargs=True)
        prefixes.append(prefix)
    return prefixes
