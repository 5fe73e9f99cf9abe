"""The tiny models' shapes and how they are trained: a new kind is a new entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedModel

from sharelora.errors import UserError

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
SPECIAL_TOKENS = (BOS, EOS, PAD)


@dataclass(frozen=True)
class Recipe:
    """How a tiny model is trained.

    Args:
        steps: optimizer steps.
        rows: rows per step.
        length: tokens per row.
        learning_rate: the highest; it warms up and falls linearly over the last part.
        warmup: steps of warming up.
        decay: the part of all steps over which the learning rate falls.
        vocabulary: the tokenizer's largest size.
        samples: documents that the tokenizer is made from.
    """

    steps: int = 240
    rows: int = 8
    length: int = 192
    learning_rate: float = 3e-3
    warmup: int = 20
    decay: float = 0.4
    vocabulary: int = 1024
    samples: int = 2000


@dataclass(frozen=True)
class Architecture:
    """A kind of model.

    Args:
        config: the configuration's class.
        model: the model's class.
        shape: the configuration's values, without vocabulary and special tokens.
        recipe: how it is trained.
    """

    config: Callable[..., PretrainedConfig]
    model: type[PreTrainedModel]
    shape: dict[str, Any]
    recipe: Recipe = field(default_factory=Recipe)


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(
        LlamaConfig,
        LlamaForCausalLM,
        {
            "hidden_size": 128,
            "intermediate_size": 320,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": True,
            # About 1 / sqrt(hidden): with the usual 0.02 a model this narrow learns nothing in its few steps.
            "initializer_range": 0.08,
        },
    ),
}


def architecture(kind: str) -> Architecture:
    """Return a kind of tiny model.

    Raises:
        UserError: there is none of that name.
    """
    if kind not in ARCHITECTURES:
        raise UserError(f"found tiny model {kind}; need one of {', '.join(ARCHITECTURES)}; change the name")
    return ARCHITECTURES[kind]
