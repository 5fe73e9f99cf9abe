"""Two processes train what one process trains: DDP, FSDP1 and FSDP2 per layer, on gloo."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from worker import PLANS, adapted, bank, digest, llama, shake, train

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(180)]

WRAPS = ("ddp", "fsdp1", "fsdp2")
CASES: dict[str, dict[str, Any]] = {
    **{f"{wrap}-{plan}": {"wrap": wrap, "plan": plan} for wrap in WRAPS for plan in PLANS},
    **{f"{wrap}-{plan}-checkpointed": {"wrap": wrap, "plan": plan, "reentrant": False}
       for wrap in WRAPS for plan in ("a", "both")},
    "ddp-none-reentrant": {"wrap": "ddp", "plan": "none", "reentrant": True},
    "ddp-tied-reentrant": {"wrap": "ddp", "plan": "tied", "reentrant": True},
}  # fmt: skip
REFUSED: dict[str, dict[str, Any]] = {
    f"ddp-{plan}-{task}-reentrant": {"wrap": "ddp", "plan": plan, "reentrant": True, "task": task}
    for plan in ("a", "both")
    for task in (None, "CAUSAL_LM")
}
CASES["fsdp2-both"]["save"] = "saved"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two processes reports, all cases run by one pair of processes."""
    folder = tmp_path_factory.mktemp("distributed")
    file = folder / "cases.json"
    file.write_text(json.dumps(CASES | REFUSED))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    settings = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("worker.py")), str(file)]
    workers = [
        subprocess.Popen(command, env={**os.environ, **settings, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        said = [worker.communicate(timeout=150)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(text[-3000:] for text in said)
    found = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]
    found[0]["folder"] = str(folder)
    return found


@pytest.fixture(scope="module")
def alone() -> dict[str, list[float]]:
    """The losses of one process for each plan."""
    return {name: train(shake(adapted(llama(), **settings)).train()) for name, settings in PLANS.items()}


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(results: list[dict[str, Any]], alone: dict[str, list[float]], name: str) -> None:
    expected = alone[CASES[name]["plan"]]
    assert len(set(expected)) == 3
    for rank in results:
        assert rank[name].get("losses") == pytest.approx(expected, abs=1e-5), rank[name]
    assert results[0][name]["weights"] == results[1][name]["weights"]


@pytest.mark.parametrize("name", REFUSED)
def test_reentrant_checkpointing_of_shared_matrices_is_refused(results: list[dict[str, Any]], name: str) -> None:
    for rank in results:
        assert 'use_reentrant": False' in rank[name].get("refused", ""), rank[name]


def test_a_sharded_adapter_is_saved_whole(results: list[dict[str, Any]]) -> None:
    folder = Path(results[0]["folder"]) / "saved"
    model = PeftModel.from_pretrained(llama(), folder)
    assert digest(dict(bank(model))) == results[0]["fsdp2-both"]["weights"]
