"""Two processes train, choose, evaluate and predict what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_encoders import write_encoder

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).resolve().parent.parent.parent


def start(processes: int, words: list[str], out: Path, batch: int) -> dict[str, float]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(ROOT / "NLU" / "run_glue_share.py"), *words]
    more = ["--output_dir", str(out), "--per_device_train_batch_size", str(batch)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *more], capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    metrics: dict[str, float] = json.loads((out / "result.json").read_text())["metrics"]
    return metrics


@pytest.mark.parametrize("method", ["share_ab", "houlsby"])
def test_two_processes_do_what_one_does(words: list[str], tmp_path: Path, method: str) -> None:
    """With accumulation, and dev and test rows that do not divide; without dropout, which differs between processes."""
    encoder = write_encoder(tmp_path / "calm", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    more = f"--model_name_or_path {encoder} --method {method} --do_train --do_eval --do_predict --max_eval_samples 37"
    more += " --max_predict_samples 7 --learning_rate 1e-3 --cls_dropout 0 --train_sampling_strategy random"
    more += " --gradient_accumulation_steps 2 --max_train_samples 84"
    outs = [tmp_path / "one", tmp_path / "two"]
    one = start(1, [*words, *more.split()], outs[0], batch=8)
    two = start(2, [*words, *more.split()], outs[1], batch=4)
    names = ("train_loss", "dev_loss_last", "held_out_loss_selected", "dev_matthews_correlation_selected")
    assert [two[name] for name in names] == pytest.approx([one[name] for name in names], rel=1e-4)
    assert (one["selected_epoch"], one["tokens"]) == (two["selected_epoch"], two["tokens"])
    first, second = (load_file(next((out / "adapter_model").glob("*.safetensors"))) for out in outs)
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 2e-5
    files = [(out / "predictions" / "CoLA.tsv").read_text() for out in outs]
    assert files[0] == files[1] and len(files[0].splitlines()) == 8
