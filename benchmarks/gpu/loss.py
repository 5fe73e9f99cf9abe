"""Training with a large vocabulary: PEFT with transformers' loss, and ours without logits."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.device import clear
from benchmarks.gpu.settings import Context, Deadline
from benchmarks.speed.loss import WAYS, cell_table
from benchmarks.speed.losses import compare, present
from benchmarks.speed.steps import LossCell


def loss(context: Context, deadline: Deadline) -> dict[str, Any]:
    """Measure all ways that can be had; cells that do not fit into the time are skipped and named."""
    device, scale = context.device, context.scale
    ways, rows, skipped = present(list(WAYS), named=False, device=device.type), [], []
    for cell in scale.losses:
        if deadline.left:
            rows.append(compare(cell, ways, device, scale.steps, small=scale.small, memory=device.type == "cuda"))
        else:
            skipped.append(cell.title())
        clear(device)
    return {"rows": rows, "skipped": skipped}


def loss_table(section: dict[str, Any]) -> str:
    """Return a section's Markdown: one table per cell."""
    return "\n\n".join(f"{LossCell(**row['cell']).title()}:\n\n{cell_table(row)}" for row in section["rows"])
