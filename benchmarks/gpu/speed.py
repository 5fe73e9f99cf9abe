"""Step time, tokens per second and peak memory of a whole model: the frozen floor, PEFT and ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlamaForCausalLM

from benchmarks.gpu.device import clear, compared, failure, foreseen, set_checkpointing
from benchmarks.gpu.settings import QV, Context, Deadline, Load
from benchmarks.harness import report
from benchmarks.harness.machine import Peak
from benchmarks.speed.bases import build_base, random_batch, twin
from benchmarks.speed.timing import Sample, Spread, TrainStep
from benchmarks.speed.variants import ALL_LINEAR, Adapter, attach, choose, trainable

TARGETS = {"qv": QV, "all": ALL_LINEAR}


def speed(context: Context, deadline: Deadline, **options: Any) -> dict[str, Any]:
    """Measure every variant on one base; loads that do not fit into the time are skipped and named.

    Args:
        context: where and how large.
        deadline: when to stop.
        options: `nf4`, and if not all of them: `variants`, `targets`, `loads`, `dropout`.
    """
    torch.manual_seed(0)
    device, scale = context.device, context.scale
    base = build_base(scale.model, device, scale.dtype, options["nf4"])
    names = choose(",".join(options.get("variants", scale.variants)), "nf4" if options["nf4"] else "bf16")
    jobs = [("floor", "-")] + [(name, target) for target in options.get("targets", TARGETS) for name in names]
    loads = [load for load in options.get("loads", scale.loads) if load in scale.loads]
    rows: list[dict[str, Any]] = []
    for done, (name, target) in enumerate(jobs):
        adapter = Adapter(scale.r, options.get("dropout", 0.0), TARGETS.get(target, ()))
        rows += _variant(context, deadline.part(1 / (len(jobs) - done)), base, (name, target, adapter), loads)
    # The floor once more: the difference says how far this device's speed wandered meanwhile.
    rows += _variant(context, deadline, base, ("floor", "again", Adapter()), loads[:1])
    _add_ratios(rows)
    _add_estimates(context, rows, options["nf4"], options.get("dropout", 0.0))
    base_bytes = sum(p.numel() * p.element_size() for p in base.parameters())
    return {"rows": rows, "base_bytes": base_bytes, "skipped": [r["name"] for r in rows if "skipped" in r]}


def _variant(
    context: Context,
    deadline: Deadline,
    base: LlamaForCausalLM,
    job: tuple[str, str, Adapter],
    loads: Sequence[Load],
) -> list[dict[str, Any]]:
    name, target, adapter = job
    rows: list[dict[str, Any]] = [
        {"name": f"{name}/{target}/{load.title()}", "variant": name, "target": target} for load in loads
    ]
    for row, load in zip(rows, loads, strict=True):
        row |= {"batch": load.batch, "checkpointing": load.checkpointing}
    if not deadline.left:
        return [row | {"skipped": "no time left"} for row in rows]
    model = attach(twin(base), name, adapter)
    count = sum(p.numel() for p in trainable(model))
    measured = [
        row
        | {"trainable": count}
        | (_load(context, model, name, load) if deadline.left else {"skipped": "no time left"})
        for row, load in zip(rows, loads, strict=True)
    ]
    del model
    clear(context.device)
    return measured


def _load(context: Context, model: Any, name: str, load: Load) -> dict[str, Any]:
    """Measure one load; running out of memory is a result too."""
    set_checkpointing(model, load.checkpointing)
    try:
        numbers = _measure(context, model, name, load)
    except RuntimeError as error:
        numbers = {"failed": failure(error)}
    model.zero_grad(set_to_none=True)
    clear(context.device)
    return numbers


def _measure(context: Context, model: Any, name: str, load: Load) -> dict[str, Any]:
    device, scale = context.device, context.scale
    batch = random_batch(scale.model, load.batch, scale.tokens, device, scale.dtype)
    step = TrainStep(model, name, batch)
    peak = Peak(device)
    samples: list[Sample] = [step.sample() for _ in range(scale.warmup + scale.steps)][scale.warmup :]
    spread = Spread.of([sample.step for sample in samples])
    return {
        "step": spread.data(),
        "optimizer": Spread.of([sample.update for sample in samples]).data(),
        "tokens_per_second": load.batch * scale.tokens / spread.median,
        # On a CPU one process cannot tell the variants' memory apart.
        "peak_memory": peak.read() if device.type == "cuda" else None,
    }


def _add_ratios(rows: list[dict[str, Any]]) -> None:
    """Divide each step by the floor's and by PEFT's of the same load and modules; autocast by autocast."""
    medians = {
        (r["variant"], r["target"], r["batch"], r["checkpointing"]): r["step"]["median"] for r in rows if "step" in r
    }
    for row in rows:
        if "step" in row:
            load = (row["batch"], row["checkpointing"])
            own, floor = row["step"]["median"], medians.get(("floor", "-", *load))
            rival = "peft_autocast" if row["variant"].endswith("_autocast") else "peft"
            peft = medians.get((rival, row["target"], *load))
            row |= {"to_floor": floor and own / floor, "speedup": peft and peft / own}


def _add_estimates(context: Context, rows: list[dict[str, Any]], nf4: bool, dropout: float) -> None:
    for row in rows:
        if "step" in row:
            adapter = Adapter(context.scale.r, dropout, TARGETS.get(row["target"], ()))
            load = Load(row["batch"], row["checkpointing"])
            row["estimated_memory"] = foreseen(context, context.scale.model, row["variant"], adapter, load, nf4)


def speed_table(section: dict[str, Any]) -> str:
    """Return a section's Markdown: one table per load."""
    loads = list(dict.fromkeys((row["batch"], row["checkpointing"]) for row in section["rows"]))
    parts = [f"Base: {report.memory(section['base_bytes'])}."]
    for batch, checkpointing in loads:
        rows = [row for row in section["rows"] if (row["batch"], row["checkpointing"]) == (batch, checkpointing)]
        parts.append(f"{Load(batch, checkpointing).title()}:\n\n" + report.table(_HEADERS, map(_line, rows)))
    return "\n\n".join(parts)


_ESTIMATED = ("estimated", "off")
_HEADERS = (
    "variant",
    "modules",
    "trained",
    "step ms",
    "optimizer ms",
    "tokens/s",
    "to floor",
    "to PEFT",
    "peak",
    *_ESTIMATED,
)


def _line(row: dict[str, Any]) -> tuple[Any, ...]:
    head = (row["variant"], row["target"], f"{row['trainable']:,}" if "trainable" in row else "-")
    if "step" not in row:
        return (*head, row.get("failed") or f"skipped: {row['skipped']}", *["-"] * 7)
    ratios = (f"{row[key]:.2f}x" if row[key] else "-" for key in ("to_floor", "speedup"))
    measured = (report.milliseconds(row["step"]), report.milliseconds(row["optimizer"]))
    return (*head, *measured, f"{row['tokens_per_second']:,.0f}", *ratios, *compared(row))
