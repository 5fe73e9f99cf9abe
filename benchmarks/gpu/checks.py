"""Checks that this device computes what the tests expect of a CPU: small models, in fp32, bf16 and NF4."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.gpu.device import clear, set_checkpointing
from benchmarks.gpu.settings import Context, Deadline
from benchmarks.harness import report
from benchmarks.speed.bases import build_base, random_batch, twin
from benchmarks.speed.timing import TrainStep
from benchmarks.speed.variants import Adapter, attach
from sharelora.tuner.kernels.fused import keep_mask

Gradients = dict[tuple[str, str], Tensor]  # (path of the layer, A or B) -> gradient

# Largest ||ours - theirs|| / ||theirs||. bf16 keeps 8 bits: PEFT multiplies fp32 copies there and we do not; and a GPU
# adds in another order each time. A wrong gradient or another dropout mask is off by 0.1 and more.
LIMITS = {"fp32": 1e-4, "bf16": 3e-2, "nf4": 3e-2}


def _config(context: Context) -> LlamaConfig:
    """Return two layers of the speed sections' model, a quarter as wide and with a small vocabulary."""
    full = context.scale.model
    narrow: dict[str, Any] = {name: max(getattr(full, name) // 4, 64) for name in ("hidden_size", "intermediate_size")}
    heads: dict[str, Any] = {
        name: max(getattr(full, name) // 4, 2) for name in ("num_attention_heads", "num_key_value_heads")
    }
    fixed: dict[str, Any] = {
        "num_hidden_layers": 2,
        "vocab_size": 256,
        "max_position_embeddings": full.max_position_embeddings,
    }
    return LlamaConfig(**narrow, **heads, **fixed)


def _layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for path, module in model.named_modules():
        if hasattr(module, "lora_A"):
            yield path.removeprefix("base_model.model."), module


def _copy_matrices(source: nn.Module, target: nn.Module) -> None:
    """Give every layer of one adapted model the A and B that the same layer of another one uses."""
    targets = dict(_layers(target))
    with torch.no_grad():
        for path, layer in _layers(source):
            for side in ("lora_A", "lora_B"):
                getattr(targets[path], side)["default"].weight.copy_(getattr(layer, side)["default"].weight)


def _gradients(model: nn.Module) -> Gradients:
    return {
        (path, side): getattr(layer, side)["default"].weight.grad.float().clone()
        for path, layer in _layers(model)
        for side in ("lora_A", "lora_B")
    }


def _difference(ours: Gradients, theirs: Gradients) -> float:
    left = torch.cat([ours[key].flatten() for key in theirs])
    right = torch.cat([theirs[key].flatten() for key in theirs])
    return float((left - right).norm() / right.norm())


class Bench:
    """A small base with a batch, on which variants are compared.

    Args:
        context: where, and of what proportions.
        precision: `fp32`, `bf16` or `nf4`.
        dropout: of the adapters.
    """

    def __init__(self, context: Context, precision: str, dropout: float = 0.0) -> None:
        torch.manual_seed(0)
        self.dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        self.config, self.device = _config(context), context.device
        self.base: LlamaForCausalLM = build_base(self.config, self.device, self.dtype, nf4=precision == "nf4")
        self.adapter = Adapter(context.scale.r, dropout)
        self.batch = random_batch(self.config, 2, min(context.scale.tokens, 256), self.device, self.dtype)

    def model(self, name: str) -> nn.Module:
        """Return a variant on the base."""
        return attach(twin(self.base), name, self.adapter)

    def train(self, model: nn.Module, name: str) -> tuple[float, Gradients]:
        """Return loss and gradients of one step."""
        step = TrainStep(model, name, self.batch)
        loss = step.forward_backward()
        return loss, _gradients(model)


def _same_as_peft(context: Context, precision: str) -> dict[str, float]:
    bench = Bench(context, precision)
    ours, theirs = bench.model("none"), bench.model("peft")
    _copy_matrices(ours, theirs)
    (loss, mine), (other_loss, other) = bench.train(ours, "none"), bench.train(theirs, "peft")
    return {"gradients": _difference(mine, other), "loss": abs(loss - other_loss) / abs(other_loss)}


def _tied_is_the_sum(context: Context, precision: str) -> dict[str, float]:
    bench = Bench(context, precision)
    tied, untied = bench.model("a"), bench.model("none")
    _copy_matrices(tied, untied)
    (_, mine), (_, other) = bench.train(tied, "a"), bench.train(untied, "none")
    sums: dict[str, Tensor] = {}
    for (path, side), gradient in other.items():
        kind = path.rpartition(".")[2]
        if side == "lora_A":
            sums[kind] = sums.get(kind, torch.zeros_like(gradient)) + gradient
    wanted = {(path, side): sums[path.rpartition(".")[2]] for path, side in other if side == "lora_A"}
    return {"gradients": _difference(mine, wanted)}


def _checkpointing_changes_nothing(context: Context, precision: str) -> dict[str, float]:
    """Dropout masks must be the same when activations are computed again."""
    bench = Bench(context, precision, dropout=0.1)
    model = bench.model("a")
    steps = []
    for on in (False, True):
        set_checkpointing(model, on)
        model.zero_grad(set_to_none=True)
        torch.manual_seed(1)
        steps.append(bench.train(model, "a"))
    (loss, plain), (again_loss, again) = steps
    return {"gradients": _difference(again, plain), "loss": abs(loss - again_loss) / abs(loss)}


def _mask_keeps_its_share(context: Context, precision: str) -> dict[str, float]:
    """Return by how many standard deviations, divided by 100, the share that dropout keeps is off."""
    count, p = 1 << 20, 0.1
    share = keep_mask(torch.empty(count, device=context.device), p).float().mean()
    return {"share": abs(float(share) - (1 - p)) / (p * (1 - p) / count) ** 0.5 / 100}


CHECKS: dict[str, tuple[Callable[[Context, str], dict[str, float]], tuple[str, ...], float | None]] = {
    "ours with nothing shared equals PEFT": (_same_as_peft, ("fp32", "bf16", "nf4"), None),
    "the gradient of a shared A is the sum over layers": (_tied_is_the_sum, ("fp32", "bf16", "nf4"), None),
    "checkpointing changes nothing, with dropout": (_checkpointing_changes_nothing, ("fp32", "bf16"), None),
    "dropout keeps its share (sigmas / 100)": (_mask_keeps_its_share, ("fp32",), 0.05),
}


def checks(context: Context, deadline: Deadline) -> dict[str, Any]:
    """Run all checks; NaN never passes."""
    rows: list[dict[str, Any]] = []
    for title, (check, precisions, own_limit) in CHECKS.items():
        for precision in precisions:
            row: dict[str, Any] = {"check": title, "precision": precision}
            if precision == "nf4" and context.without_nf4:
                rows.append(row | {"skipped": context.without_nf4})
            elif not deadline.left:
                rows.append(row | {"skipped": "no time left"})
            else:
                limit = own_limit or LIMITS[precision]
                differences = check(context, precision)
                ok = all(value <= limit for value in differences.values())
                rows.append(row | {"found": differences, "limit": limit, "ok": ok})
                clear(context.device)
    failed = [f"{row['check']} ({row['precision']})" for row in rows if row.get("ok") is False]
    skipped = [f"{row['check']} ({row['precision']})" for row in rows if "skipped" in row]
    return {"rows": rows, "failed": failed, "skipped": skipped}


def checks_table(section: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    rows = [
        (
            row["check"],
            row["precision"],
            ", ".join(f"{name} {value:.1e}" for name, value in row.get("found", {}).items()) or "-",
            f"{row['limit']:.0e}" if "limit" in row else "-",
            row.get("skipped") or ("ok" if row["ok"] else "FAILED"),
        )
        for row in section["rows"]
    ]
    return report.table(("check", "precision", "relative difference", "limit", "result"), rows)
