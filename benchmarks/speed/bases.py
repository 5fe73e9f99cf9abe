"""Frozen LLaMA-shaped bases with random weights: nothing is downloaded, and no base is held twice."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from sharelora.models.known import model_config
from sharelora.tuner.quantization import protect_4bit

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# The initial spread of LLaMA's weights: activations and gradients keep a usual size.
_SPREAD = 0.02
Model = TypeVar("Model", bound=nn.Module)


def stack_config(hidden: int, layers: int, vocab: int = 64, tokens: int = 4096) -> LlamaConfig:
    """Return a small LLaMA-7B: the same proportions, and a vocabulary so small that it costs nothing.

    Args:
        hidden: a multiple of 64.
        layers: decoder layers.
        vocab: size of the vocabulary.
        tokens: longest sequence.
    """
    heads = max(1, hidden // 64)
    # 11008 / 4096, rounded to whole blocks of 64.
    mlp = round(hidden * 43 / 16 / 64) * 64
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=vocab,
        max_position_embeddings=tokens,
    )


def known_config(name: str, layers: int | None = None) -> LlamaConfig:
    """Return a published shape, e.g. `llama3-8b`, in full or with fewer layers."""
    config = model_config(name)
    if not isinstance(config, LlamaConfig):
        raise TypeError(f"{name} is a {type(config).__name__}, not a LLaMA")
    config.num_hidden_layers = layers or config.num_hidden_layers
    return config


def build_base(config: LlamaConfig, device: torch.device, dtype: torch.dtype, nf4: bool = False) -> LlamaForCausalLM:
    """Build a frozen base directly on a device, layer by layer, so that 4-bit models never exist in 16 bits.

    Args:
        config: the shape.
        device: where the weights go.
        dtype: of weights and activations.
        nf4: quantise the linear layers of all decoder layers: NF4 with double quantisation, as QLoRA does.
    """
    with torch.device("meta"):
        model: Any = LlamaForCausalLM._from_config(config, dtype=dtype)
    for path, module in list(model.named_modules()):
        if nf4 and isinstance(module, nn.Linear) and path.startswith("model.layers."):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, nf4_layer(module, device, dtype))
        else:
            _fill(module, device, dtype)
    with torch.device(device):
        # Its buffers are computed from the configuration, not random.
        model.model.rotary_emb = type(model.model.rotary_emb)(config)
    # PEFT looks at this to choose its 4-bit layers.
    model.is_loaded_in_4bit = nf4
    protect_4bit(model)
    return model.train()


def _fill(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    for name, parameter in list(module.named_parameters(recurse=False)):
        value = torch.empty(parameter.shape, device=device, dtype=dtype)
        value = value.fill_(1) if value.ndim == 1 else value.normal_(0, _SPREAD)
        setattr(module, name, nn.Parameter(value, requires_grad=False))


def nf4_layer(layer: nn.Linear, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Return a 4-bit layer (NF4, double quantisation) of a linear layer's shape, with random weights."""
    import bitsandbytes as bnb  # optional package

    weight = torch.empty(layer.weight.shape, device=device, dtype=dtype).normal_(0, _SPREAD)
    packed_layer = bnb.nn.Linear4bit(
        layer.in_features, layer.out_features, bias=False, compute_dtype=dtype, quant_type="nf4", device="meta"
    )
    packed: Any = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", module=packed_layer)
    # Moving it to a device, even to the one it is on, quantises it.
    packed_layer.weight = packed.to(device)
    return packed_layer


def _shared_state(base: nn.Module) -> Iterator[Any]:
    yield from base.parameters()
    yield from base.buffers()
    # 4-bit layers keep their scales here.
    yield from (state for m in base.modules() if (state := getattr(m, "quant_state", None)) is not None)


def twin(base: Model) -> Model:
    """Return a model with its own modules and the very same weights, so that adapting it spares the base."""
    return copy.deepcopy(base, {id(item): item for item in _shared_state(base)})


def random_batch(
    config: Any, batch: int, tokens: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Return embeddings that require a gradient, (B, T, D), with labels, (B, T).

    The gradient goes down to the embeddings for every variant, the frozen floor included, as with
    `enable_input_require_grads`: without it the floor would have no backward pass.
    """
    embeddings = torch.empty(batch, tokens, config.hidden_size, device=device, dtype=dtype).normal_()
    labels = torch.randint(config.vocab_size, (batch, tokens), device=device)
    return {"inputs_embeds": embeddings.requires_grad_(), "labels": labels}
