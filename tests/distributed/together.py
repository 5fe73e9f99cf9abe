"""Real jobs in several processes over gloo, and what must hold of them."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

TESTS = Path(__file__).resolve().parent.parent
sys.path += [str(TESTS / name) for name in ("faults", "training", "nlu", "nlg")]
from faulty import (  # noqa: E402
    ADAPTER,
    ROOT,
    STATE,
    Ended,
    Worker,
    curve,
    last_step,
    measured,
    nothing_damaged,
)
from small_llama import write_data, write_model  # noqa: E402

__all__ = ["ADAPTER", "ROOT", "STATE", "Ended", "Worker", "curve", "last_step", "measured", "nothing_damaged"]
__all__ += ["write_data", "write_model"]

GLUE, NLG = "sharelora.training.glue", "sharelora.training.nlg"


def dealt(batch: int, accumulation: int) -> list[str]:
    """The flags that say how many rows a process takes."""
    return ["--per_device_train_batch_size", str(batch), "--gradient_accumulation_steps", str(accumulation)]


def together(
    worker: Worker,
    words: Sequence[str],
    job: str = "sharelora.training.instructions",
    environment: dict[str, str] | None = None,
    count: int = 2,
    **faults: Any,
) -> list[Ended]:
    """Run the same command in several processes; faults are those of the last one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **(environment or {})}
    pids = []
    for rank in range(count):
        own = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)}
        pids.append(worker.start(words, {"job": job, "environment": own}, **(faults if rank == count - 1 else {})))
    return [worker.wait(pid) for pid in pids]


def went_well(ended: Sequence[Ended]) -> None:
    assert [end.code for end in ended] == [0] * len(ended), ended[0].log[-2500:] + ended[-1].log[-2500:]
    # Whatever wraps the model, its head is found.
    assert not any("made from all logits" in end.log for end in ended)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / ADAPTER)


def alike(first: Path, second: Path, tolerance: float = 2e-5) -> None:
    """Two runs end with the same adapter within the rounding of fp32, and had the same losses."""
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < tolerance
    losses = [[line["loss"] for line in curve(out) if "loss" in line] for out in (first, second)]
    assert len(losses[0]) > 1 and losses[0] == pytest.approx(losses[1], rel=2e-4)


def files(out: Path) -> list[str]:
    """All that a run has left, by name."""
    return sorted(str(file.relative_to(out)) for file in out.rglob("*"))
