"""Stacks of LLaMA layers with every variant on the same weights: times in turn, peak memory in a process each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from benchmarks.harness.machine import Peak
from benchmarks.harness.report import ROOT
from benchmarks.speed.bases import DTYPES, build_base, random_batch, stack_config, twin
from benchmarks.speed.steps import StackCell
from benchmarks.speed.timing import TrainStep, describe, matmul_rate, measure_in_turn
from benchmarks.speed.variants import Adapter, choose
from sharelora.support.errors import UserError

# Steps that are trained to reach the peak: the optimizer's state exists from the second on.
_STEPS = 3


def _base_and_batch(cell: StackCell, device: torch.device) -> tuple[LlamaForCausalLM, dict[str, Tensor]]:
    dtype = DTYPES[cell.dtype]
    config = stack_config(cell.hidden, cell.layers)
    return build_base(config, device, dtype), random_batch(config, 1, cell.tokens, device, dtype)


def prepare(cell: StackCell, names: Sequence[str], device: torch.device) -> dict[str, TrainStep]:
    """Make every variant ready, all on the weights of one base."""
    torch.manual_seed(0)
    base, batch = _base_and_batch(cell, device)
    adapter = Adapter(cell.rank, cell.dropout)
    return {name: TrainStep.of(twin(base), name, adapter, batch) for name in names}


def compare(cell: StackCell, variants: str | None, rounds: int, device: torch.device, memory: bool) -> dict[str, Any]:
    """Measure one configuration.

    Args:
        cell: the configuration.
        variants: names, comma-separated; None for all.
        rounds: measured rounds.
        device: of the model.
        memory: whether to measure peak memory, in a process per variant.
    """
    names = choose(variants, cell.dtype, dropout=cell.dropout)
    steps = prepare(cell, names, device)
    samples, others = measure_in_turn(cell.title(), steps, rounds)
    counts = {name: sum(p.numel() for p in step.parameters) for name, step in steps.items()}
    # Their memory would be missing from what is measured next.
    del steps
    rows = {name: {"trainable": counts[name], **describe(name, samples)} for name in names}
    for name in names if memory else ():
        rows[name]["memory"] = measure_apart(cell, name, torch.get_num_threads(), device)
    return {"cell": cell.data(), "others_percent": others, "variants": rows}


def matmul_rates(device: str, names: Sequence[str] = tuple(DTYPES)) -> dict[str, float]:
    """Return the rates of a product of two matrices of 1024 x 1024 in TFLOP/s, by precision."""
    return {name: matmul_rate(torch.device(device), DTYPES[name], 1024) for name in names}


def measure_here(cell: StackCell, name: str, device: torch.device) -> dict[str, int]:
    """Build a variant in this process, train a few steps and return bytes: before the steps, and at their peak."""
    base, batch = _base_and_batch(cell, device)
    step = TrainStep.of(base, name, Adapter(cell.rank, cell.dropout), batch)
    peak = Peak(device)
    for _ in range(_STEPS):
        step.sample()
    return {"before": peak.before, "peak": peak.read()}


def measure_apart(cell: StackCell, name: str, threads: int, device: torch.device) -> dict[str, int]:
    """Do the same in a fresh process, which runs this module.

    Raises:
        UserError: the process failed; the message ends with its last line.
    """
    request = json.dumps({"cell": asdict(cell), "name": name, "threads": threads, "device": str(device)})
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.stacks"],
        input=request,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"measuring the memory of {name} failed: {last}; leave it out with --no-memory")
    return json.loads(done.stdout.splitlines()[-1])


def _answer(request: dict[str, Any]) -> None:
    torch.set_num_threads(request["threads"])
    print(json.dumps(measure_here(StackCell(**request["cell"]), request["name"], torch.device(request["device"]))))


if __name__ == "__main__":
    _answer(json.load(sys.stdin))
