"""Frozen GPT-2-shaped language models with random weights, and what is put on query and value of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from benchmarks.bases import twin
from benchmarks.timing import TrainStep
from benchmarks.variants import VARIANTS, Adapter, Variant
from sharelora import ShareLoraConfig, UserError
from sharelora.models.known import model_config

C_ATTN = "c_attn"
# The parts of the fused query, key and value that are adapted, as in LoRA's recipes.
QUERY_AND_VALUE = [True, False, True]


@dataclass(frozen=True)
class DecoderCell:
    """One configuration: a GPT-2 with query and value adapted, and a batch of rows.

    Raises:
        UserError: a size that makes no model.
    """

    hidden: int = 768
    layers: int = 12
    rank: int = 4
    batch: int = 8
    tokens: int = 64
    vocab: int = 50257
    dropout: float = 0.0

    def __post_init__(self) -> None:
        least = min(self.layers, self.rank, self.batch, self.vocab, self.tokens - 1)
        if self.hidden < 64 or self.hidden % 64 or least < 1:
            raise UserError(
                f"found hidden {self.hidden}, layers {self.layers}, rank {self.rank}, batch {self.batch}, tokens "
                f"{self.tokens}, vocab {self.vocab}; need a hidden size that 64 divides, at least 2 tokens, and at "
                "least 1 of the others"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"found --dropout {self.dropout}; need a probability of at least 0 and below 1")

    def title(self) -> str:
        """Describe it for a table."""
        return (
            f"hidden {self.hidden}, {self.layers} layers, vocabulary {self.vocab:,}, rank {self.rank}, dropout "
            f"{self.dropout:g}, {self.batch} x {self.tokens} tokens"
        )

    def data(self) -> dict[str, Any]:
        """Return the fields as JSON data."""
        return asdict(self)


def decoder_config(cell: DecoderCell) -> GPT2Config:
    """Return GPT-2 in the cell's size, without dropout as in LoRA's recipes."""
    config = model_config("gpt2")
    if not isinstance(config, GPT2Config):
        raise TypeError(f"gpt2 is a {type(config).__name__}")
    config.n_embd, config.n_layer, config.n_head = cell.hidden, cell.layers, cell.hidden // 64
    config.vocab_size, config.n_positions = cell.vocab, max(cell.tokens, 64)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    return config


def build_decoder(cell: DecoderCell, device: torch.device) -> GPT2LMHeadModel:
    """Build a frozen language model in fp32."""
    with torch.device(device):
        model = GPT2LMHeadModel(decoder_config(cell))
    return model.requires_grad_(False).train()


def rows(cell: DecoderCell, device: torch.device) -> dict[str, Tensor]:
    """Return embeddings that require a gradient, (B, T, D), with labels, (B, T), of which the second half counts.

    The gradient goes down to the embeddings for every variant, the floor included (`benchmarks.bases.random_batch`).
    """
    embeddings = torch.empty(cell.batch, cell.tokens, cell.hidden, device=device).normal_()
    labels = torch.randint(cell.vocab, (cell.batch, cell.tokens), device=device)
    labels[:, : cell.tokens // 2] = -100
    return {"inputs_embeds": embeddings.requires_grad_(), "labels": labels}


def _fields(cell: DecoderCell) -> dict[str, Any]:
    return {**Adapter(cell.rank, cell.dropout, (C_ATTN,)).fields(), "fan_in_fan_out": True}


def _peft(model: Any, variant: Variant, cell: DecoderCell) -> nn.Module:
    return get_peft_model(model, LoraConfig(**_fields(cell)), **variant.options)


def _sharelora(model: Any, variant: Variant, cell: DecoderCell) -> nn.Module:
    parts = {C_ATTN: QUERY_AND_VALUE}
    return get_peft_model(model, ShareLoraConfig(**_fields(cell), enable_lora=parts, **variant.options))


def _loralib(model: nn.Module, variant: Variant, cell: DecoderCell) -> nn.Module:
    import loralib

    for path, layer in list(model.named_modules()):
        parent, _, name = path.rpartition(".")
        if name == C_ATTN and isinstance(layer, Conv1D):
            made = loralib.MergedLinear(
                *layer.weight.shape,
                r=cell.rank,
                lora_alpha=2 * cell.rank,
                lora_dropout=cell.dropout,
                enable_lora=QUERY_AND_VALUE,
                fan_in_fan_out=True,
                merge_weights=False,
            )
            nn.init.normal_(made.lora_B, std=cell.rank**-0.5)
            made.to(layer.weight.device)
            made.weight, made.bias = layer.weight, layer.bias
            setattr(model.get_submodule(parent), name, made)
    return model


LIBRARIES: Mapping[str, Callable[[Any, Variant, DecoderCell], nn.Module]] = {
    "none": lambda model, variant, cell: model,
    "peft": _peft,
    "loralib": _loralib,
    "sharelora": _sharelora,
}


def prepare(cell: DecoderCell, names: list[str], device: torch.device) -> dict[str, TrainStep]:
    """Make every variant ready, all on the weights of one base."""
    torch.manual_seed(0)
    base, batch = build_decoder(cell, device), rows(cell, device)
    steps = {}
    for name in names:
        variant = VARIANTS[name]
        steps[name] = TrainStep(LIBRARIES[variant.library](twin(base), variant, cell).train(), name, batch)
    return steps
