"""Frozen GPT-2-shaped language models with random weights, and adapters on query and value of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from benchmarks.speed.bases import twin
from benchmarks.speed.cells import DecoderCell
from benchmarks.speed.timing import Sample, Spread, TrainStep, measure_in_turn, ratio
from benchmarks.speed.variants import VARIANTS, Adapter, Variant
from sharelora import ShareLoraConfig
from sharelora.models.known import model_config

C_ATTN = "c_attn"
# The parts of the fused query, key and value that are adapted, as in LoRA's recipes.
QUERY_AND_VALUE = [True, False, True]


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

    The gradient goes down to the embeddings for every variant, the floor included (see `bases.random_batch`).
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
    import loralib  # optional: an oracle, no dependency

    for path, layer in list(model.named_modules()):
        parent, _, name = path.rpartition(".")
        if name == C_ATTN and isinstance(layer, Conv1D):
            adapted = loralib.MergedLinear(
                *layer.weight.shape,
                r=cell.rank,
                lora_alpha=2 * cell.rank,
                lora_dropout=cell.dropout,
                enable_lora=QUERY_AND_VALUE,
                fan_in_fan_out=True,
                merge_weights=False,
            )
            nn.init.normal_(adapted.lora_B, std=cell.rank**-0.5)
            adapted.to(layer.weight.device)
            adapted.weight, adapted.bias = layer.weight, layer.bias
            setattr(model.get_submodule(parent), name, adapted)
    return model


LIBRARIES: Mapping[str, Callable[[Any, Variant, DecoderCell], nn.Module]] = {
    "none": lambda model, variant, cell: model,
    "peft": _peft,
    "loralib": _loralib,
    "sharelora": _sharelora,
}


def prepare(cell: DecoderCell, names: Sequence[str], device: torch.device) -> dict[str, TrainStep]:
    """Make every variant ready, all on the weights of one base."""
    torch.manual_seed(0)
    base, batch = build_decoder(cell, device), rows(cell, device)
    steps = {}
    for name in names:
        variant = VARIANTS[name]
        steps[name] = TrainStep(LIBRARIES[variant.library](twin(base), variant, cell).train(), name, batch)
    return steps


def compare(cell: DecoderCell, names: Sequence[str], rounds: int, device: torch.device) -> dict[str, Any]:
    """Measure one configuration.

    Args:
        cell: the configuration.
        names: of the variants.
        rounds: measured rounds.
        device: of the model.
    """
    steps = prepare(cell, names, device)
    samples, others = measure_in_turn(cell.title(), steps, rounds)
    rows = {
        name: {"trainable": sum(p.numel() for p in step.parameters), **describe(name, samples, cell)}
        for name, step in steps.items()
    }
    return {"cell": cell.data(), "others_percent": others, "variants": rows}


def describe(name: str, samples: Mapping[str, Sequence[Sample]], cell: DecoderCell) -> dict[str, Any]:
    """Return times and ratios of a variant; a step here is forward, backward and the optimizer's part."""
    whole = {key: [Sample(sample.step + sample.update, 0.0) for sample in steps] for key, steps in samples.items()}
    own, seconds = whole[name], Spread.of([sample.step for sample in whole[name]])
    others = {key: ratio(whole[key], own).data() for key in ("peft", "loralib") if key in whole}
    return {
        "step": seconds.data(),
        "tokens_per_second": cell.batch * cell.tokens / seconds.median,
        "to_floor": ratio(own, whole["floor"]).data() if "floor" in whole else None,
        "faster_than": others,
    }
