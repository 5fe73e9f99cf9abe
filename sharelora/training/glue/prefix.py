"""Prefixes (Li and Liang 2021, 2101.00190): trained keys and values in front of those of the text, in every layer.

PEFT passes a prefix as a cache of earlier tokens. BERT and RoBERTa then number the text's positions from behind it, so
that the frozen model is another one before anything is trained, and long texts run out of positions. Here the prefix is
added within each attention, and the positions stay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharelora.support.errors import UserError

NAME = "prefix"
# Their attention takes earlier keys and values.
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
    prefix: Prefix = getattr(module, NAME)
    names = ("hidden_states", "attention_mask")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    mask = given.get("attention_mask")
    return args[2:], {**given, "attention_mask": prefix.widen(mask), "past_key_values": prefix}


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
    made = []
    for layer in model.base_model.get_submodule(LAYERS):
        prefix = Prefix(config.num_attention_heads, length, features, config.initializer_range)
        attention = layer.get_submodule(ATTENTION)
        attention.add_module(NAME, prefix.to(device=weight.device, dtype=weight.dtype))
        attention.register_forward_pre_hook(_put_before, with_kwargs=True)
        made.append(prefix)
    return made
