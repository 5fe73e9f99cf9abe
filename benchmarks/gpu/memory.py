"""The cost of adapters on a LLaMA3-70B base in NF4: parameters, gradients and AdamW's state."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.gpu.device import clear, compared, failure, foreseen, set_checkpointing
from benchmarks.gpu.settings import Context, Deadline, Load
from benchmarks.harness import report
from benchmarks.harness.machine import Peak
from benchmarks.speed.bases import build_base, random_batch, twin
from benchmarks.speed.timing import TrainStep
from benchmarks.speed.variants import ALL_LINEAR, VARIANTS, Adapter, attach
from sharelora import SharingPlan, SharingRule, find_sites

COMPARED = ("peft", "none", "a", "ab")
# Beside the weights: logits, activations with checkpointing, and LoRA's adapters with their optimizer state.
_RESERVED = 35e9
# NF4 with double quantisation takes 0.516 bytes per weight; one layer at a time is drawn in 16 bits first.
_NF4_BYTES = 0.516


def layers_that_fit(config: LlamaConfig, free: int) -> int:
    """Return how many of a model's layers can be trained in so much memory, at least 2."""
    heads, groups = config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads
    hidden, kv = config.hidden_size, config.hidden_size * groups // heads
    layer = _NF4_BYTES * (2 * hidden * (hidden + kv) + 3 * hidden * config.intermediate_size)
    ends = 2 * 2 * hidden * config.vocab_size
    return max(2, min(config.num_hidden_layers, int((free - ends - _RESERVED) / layer)))


def memory(context: Context, deadline: Deadline, nf4: bool) -> dict[str, Any]:
    """Measure on as many layers as fit, and compute for all of them from the plan.

    Args:
        context: where and how large.
        deadline: when to stop.
        nf4: whether the base is quantised.
    """
    torch.manual_seed(0)
    full, device, scale = context.scale.large, context.device, context.scale
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    built = scale.large_layers or layers_that_fit(full, free)
    shorter = LlamaConfig(**{**full.to_dict(), "num_hidden_layers": built})
    base = build_base(shorter, device, scale.dtype, nf4)
    rows = []
    for name in COMPARED:
        if deadline.left:
            rows.append(_variant(context, base, name, nf4))
            clear(device)
        else:
            rows.append({"variant": name, "skipped": "no time left"})
    computed = {name: _computed(full, name, scale.r) for name in COMPARED}
    for row in rows:
        row["computed"] = computed[row["variant"]]
    extent = {"layers_built": built, "layers_in_full": full.num_hidden_layers}
    return {**extent, "rows": rows, "skipped": [row["variant"] for row in rows if "skipped" in row]}


def _variant(context: Context, base: LlamaForCausalLM, name: str, nf4: bool) -> dict[str, Any]:
    device, scale = context.device, context.scale
    adapter = Adapter(scale.r, 0.0, ALL_LINEAR)
    model = attach(twin(base), name, adapter)
    set_checkpointing(model, True)
    batch = random_batch(base.config, 1, scale.tokens, device, scale.dtype)
    step = TrainStep(model, name, batch)
    peak = Peak(device)
    try:
        first = _first_step(step)
        seconds = step.sample().step
    except RuntimeError as error:
        return {"variant": name, "failed": failure(error)}
    return {
        "variant": name,
        "measured": first,
        "step_seconds": seconds,
        # On a CPU one process cannot tell the variants' memory apart.
        "peak_memory": peak.read() if device.type == "cuda" else None,
        "estimated_memory": foreseen(context, base.config, name, adapter, Load(1, True), nf4),
    }


def _first_step(step: TrainStep) -> dict[str, int]:
    """Run one step and return the bytes of the tensors that exist after it."""
    step.forward_backward()
    gradients = sum(_bytes(p.grad) for p in step.parameters)
    step.update()
    states = step.optimizer.state.values() if step.optimizer else ()
    return {
        "trainable": sum(p.numel() for p in step.parameters),
        "adapter": sum(_bytes(p) for p in step.parameters),
        "gradients": gradients,
        "optimizer": sum(_bytes(value) for state in states for value in state.values() if torch.is_tensor(value)),
    }


def _bytes(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel() * tensor.element_size()


def _computed(config: LlamaConfig, name: str, r: int) -> dict[str, int]:
    """Return the same from the plan of the whole model: fp32 matrices, gradients and two moments."""
    with torch.device("meta"):
        model: nn.Module = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    rule = SharingRule(VARIANTS[name].options.get("share", "none"))
    count = SharingPlan.build(find_sites(model, list(ALL_LINEAR)), rule, r).num_parameters
    return {"trainable": count, "adapter": 4 * count, "gradients": 4 * count, "optimizer": 8 * count}


_PARTS = ("adapter", "gradients", "optimizer")


def memory_table(section: dict[str, Any]) -> str:
    """Return the section's Markdown; it says what is measured and what is computed."""
    built, full = section["layers_built"], section["layers_in_full"]
    note = (
        f"Measured: bytes of the tensors of one real training step with {built} of {full} layers (all linear maps, "
        f"batch 1, checkpointing). Computed: all {full} layers, from the plan; matrices, gradients and both moments "
        "of AdamW in fp32."
    )
    headers = ("variant", "what", "trained", *_PARTS, "together", "step s", "peak", "estimated", "off")
    lines = [line for row in section["rows"] for line in _lines(row, built, full)]
    return note + "\n\n" + report.table(headers, lines)


def _lines(row: dict[str, Any], built: int, full: int) -> list[tuple[Any, ...]]:
    computed = _line(row["variant"], f"computed, {full} layers", row["computed"])
    if "measured" not in row:
        reason = row.get("failed") or f"skipped: {row['skipped']}"
        return [(row["variant"], reason, *["-"] * 9), (*computed, *["-"] * 4)]
    measured = _line(row["variant"], f"measured, {built} layers", row["measured"])
    return [(*measured, f"{row['step_seconds']:.2f}", *compared(row)), (*computed, *["-"] * 4)]


def _line(name: str, what: str, sizes: dict[str, int]) -> tuple[Any, ...]:
    parts = [sizes[part] for part in _PARTS]
    return (name, what, f"{sizes['trainable']:,}", *map(report.memory, parts), report.memory(sum(parts)))
