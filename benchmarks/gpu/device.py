"""Shared by the sections: checkpointing, cleaning up, failures in a few words, and the estimate of a step."""

from __future__ import annotations

import gc
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.gpu.settings import Context, Load
from benchmarks.harness import report
from benchmarks.speed.variants import VARIANTS, Adapter
from sharelora import SharingPlan, SharingRule, find_sites
from sharelora.memory.estimator import estimate


def clear(device: torch.device) -> None:
    """Return the memory of deleted models."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def set_checkpointing(model: Any, on: bool) -> None:
    """Switch non-reentrant gradient checkpointing on or off."""
    # Newer versions of transformers have it under another name and warn about the old one.
    word = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if on:
        getattr(model, f"{word}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(model, f"{word}_checkpointing_disable")()


def failure(error: RuntimeError) -> str:
    """Return in a few words why a step failed: on a machine lent for minutes one failure must not end the run."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


def foreseen(
    context: Context, config: LlamaConfig, name: str, adapter: Adapter, load: Load, nf4: bool = False
) -> int | None:
    """Return the estimated bytes of a step without the runtime; None for other libraries.

    Args:
        context: the device, the precision and the tokens.
        config: of the base that is built.
        name: the variant.
        adapter: rank, dropout and modules.
        load: batch and checkpointing.
        nf4: whether the base is quantised.
    """
    variant = VARIANTS[name]
    if variant.library != "sharelora" or variant.autocast:
        return None
    with torch.device("meta"):
        model: nn.Module = LlamaForCausalLM._from_config(config, dtype=context.scale.dtype)
    rule = SharingRule(variant.options["share"])
    need = estimate(
        model,
        SharingPlan.build(find_sites(model, list(adapter.modules)), rule, adapter.r),
        bits=4 if nf4 else 16,
        dtype="bf16",
        batch=load.batch,
        tokens=context.scale.tokens,
        checkpointing=load.checkpointing,
        lora_dropout=adapter.dropout,
        share_dropout_mask=bool(variant.options.get("share_dropout_mask")),
        # The batches of these runs are full.
        padded=False,
        device=context.device.type,
    )
    return need.step - (need.total - need.own)


def compared(row: dict[str, Any]) -> tuple[str, str, str]:
    """Return measured and estimated peak for a table, and by how much the estimate is off."""
    peak, estimated = row.get("peak_memory"), row.get("estimated_memory")
    off = f"{100 * (estimated / peak - 1):+.1f} %" if peak and estimated else "-"
    return report.memory(peak), report.memory(estimated), off
