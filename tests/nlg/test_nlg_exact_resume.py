"""A run that is stopped anywhere, any number of times, is the uninterrupted run."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_gpt2 import Job
from stops import same_state, stop_often

ADAPTER = "adapter_model/adapter_model.safetensors"
MORE = "--max_step 5 --save_interval 4 --log_interval 2 --eval_interval 3 --grad_acc 2 --scheduler cosine"


# Adam of torch, and LoRA's without correction.
@pytest.mark.slow
@pytest.mark.parametrize("bias", ["true", "false"])
def test_stopped_in_every_update_it_is_the_same_run(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bias: str
) -> None:
    more = (*MORE.split(), "--correct_bias", bias)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    _, expected = job("--work_dir", str(whole), *more)
    found: dict[str, float] = {}
    stops = stop_often(lambda: found.update(job("--work_dir", str(broken), *more)[1]), monkeypatch, "on_step_begin", 8)
    assert stops == 5
    assert (whole / ADAPTER).read_bytes() == (broken / ADAPTER).read_bytes()
    same_state(whole, broken)
    for name in ("train_loss", "eval_loss", "eval_perplexity", "eval_loss_best", "steps", "tokens"):
        assert found[name] == expected[name], name
