"""Frozen GPT-2-shaped language models with random weights, and adapters on query and value of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.speed.bases import random_batch, twin
from benchmarks.speed.steps import DecoderCell
from benchmarks.speed.timing import Sample, Spread, TrainStep, measure_in_turn, ratio
from benchmarks.speed.variants import Adapter
from sharelora.data.token_rows import IGNORED
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
    """Return a batch of `random_batch` of whose labels, (B, T), the second half counts."""
    batch = random_batch(decoder_config(cell), cell.batch, cell.tokens, device)
    batch["labels"][:, : cell.tokens // 2] = IGNORED
    return batch


def prepare(cell: DecoderCell, names: Sequence[str], device: torch.device) -> dict[str, TrainStep]:
    """Make every variant ready, all on the weights of one base."""
    torch.manual_seed(0)
    base, batch = build_decoder(cell, device), rows(cell, device)
    adapter = Adapter(cell.rank, cell.dropout, (C_ATTN,), {C_ATTN: QUERY_AND_VALUE})
    return {name: TrainStep.of(twin(base), name, adapter, batch) for name in names}


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
