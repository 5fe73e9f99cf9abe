"""Two processes train what one does, and evaluate the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).resolve().parent.parent.parent
ENTRY = str(ROOT / "NLG" / "gpt2_share_ft.py")


def start(processes: int, words: list[str], out: Path, batch: int) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), ENTRY, *words]
    more = ["--work_dir", str(out), "--train_batch_size", str(batch)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *more], capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]


def test_two_processes_do_what_one_does(words: list[str], tmp_path: Path) -> None:
    """Shared matrices, accumulation, an odd number of validation rows."""
    more = "--share ab --max_step 5 --grad_acc 2 --eval_interval 5 --max_eval_samples 7 --lora_dropout 0 --lr 1e-3"
    outs = [tmp_path / "one", tmp_path / "two"]
    start(1, [*words, *more.split()], outs[0], batch=4)
    start(2, [*words, *more.split()], outs[1], batch=2)
    one, two = (load_file(out / "adapter_model" / "adapter_model.safetensors") for out in outs)
    assert one.keys() == two.keys()
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 2e-5
    metrics = [json.loads((out / "metrics.json").read_text()) for out in outs]
    for name in ("train_loss", "eval_perplexity", "eval_loss_before"):
        assert metrics[0][name] == pytest.approx(metrics[1][name], rel=1e-5)
    assert metrics[0]["eval_tokens"] == metrics[1]["eval_tokens"]
