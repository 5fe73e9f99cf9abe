"""Peak memory of a training step: on a GPU from the allocator, on a CPU from a fresh process of each variant's own.

A process never gives back all that it once took, so on a CPU two variants cannot be measured in one.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.bases import DTYPES, build_base, random_batch, stack_config
from benchmarks.cells import Cell
from benchmarks.timing import TrainStep
from sharelora import UserError
from sharelora.reporting.environment import peak_memory

_ROOT = Path(__file__).resolve().parent.parent
_STEPS = 3


def _give_back() -> None:
    """Let the C library return what was freed: what is measured next would use it, and seem to need nothing."""
    gc.collect()
    if sys.platform == "linux":
        # Other C libraries than glibc do not have it.
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)


class Peak:
    """The most memory held from now on, in bytes.

    Args:
        device: of the model.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = self._reset()

    def _reset(self) -> int:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return torch.cuda.memory_allocated(self.device)
        _give_back()
        # Sets the high-water mark of the resident set back to what is held now.
        clear = Path("/proc/self/clear_refs")
        if os.access(clear, os.W_OK):
            clear.write_text("5")
        return psutil.Process().memory_info().rss

    def read(self) -> int:
        """Return the peak so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        status = Path("/proc/self/status")
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
        # Elsewhere the whole process's peak stands in, building the model included.
        return int(found[1]) * 1024 if found else peak_memory()


def measure_here(cell: Cell, name: str, device: torch.device) -> dict[str, int]:
    """Build a variant in this process, train a few steps and return bytes: before the steps, and at their peak."""
    dtype = DTYPES[cell.dtype]
    config = stack_config(cell.hidden, cell.layers)
    base = build_base(config, device, dtype)
    step = TrainStep.of(base, name, cell.adapter(), random_batch(config, 1, cell.tokens, device, dtype))
    peak = Peak(device)
    for _ in range(_STEPS):
        step.sample()
    return {"before": peak.before, "peak": peak.read()}


def measure_apart(cell: Cell, name: str, threads: int, device: torch.device) -> dict[str, int]:
    """Do the same in a fresh process.

    Raises:
        UserError: the process failed; the message ends with what it said.
    """
    request = json.dumps({"cell": asdict(cell), "name": name, "threads": threads, "device": str(device)})
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory"],
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
    print(json.dumps(measure_here(Cell(**request["cell"]), request["name"], torch.device(request["device"]))))


if __name__ == "__main__":
    _answer(json.load(sys.stdin))
