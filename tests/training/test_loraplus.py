"""LoRA+: the B matrices learn at a rate of their own, on any way of sharing and over an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_llama import Job

from sharelora.support.errors import UserError

PLAIN = ("--optim", "sgd", "--lr_scheduler_type", "constant", "--learning_rate", "1e-2", "--max_grad_norm", "0")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model" / "adapter_model.safetensors")


@pytest.mark.parametrize("share", ["none", "ab"])
def test_one_step_of_b_is_so_many_times_as_long(job: Job, tmp_path: Path, share: str) -> None:
    found = []
    for ratio in ("1", "4"):
        out = tmp_path / f"ratio-{ratio}"
        job("--output_dir", str(out), "--share", share, "--max_steps", "1", *PLAIN, "--loraplus_lr_ratio", ratio)
        found.append(weights(out))
    one, four = found
    for name, matrix in one.items():
        if "lora_B" in name:  # which begins at zero
            assert matrix.abs().max() > 0
            torch.testing.assert_close(four[name], 4 * matrix)
        else:  # whose gradient is B's times something
            assert torch.equal(four[name], matrix)


def test_an_interrupted_run_keeps_the_rates(job: Job, tmp_path: Path) -> None:
    more = (
        "--loraplus_lr_ratio",
        "8",
        "--save_steps",
        "2",
        "--learning_rate",
        "1e-3",
        "--lr_scheduler_type",
        "constant",
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    job("--output_dir", str(whole), *more, "--max_steps", "4")
    job("--output_dir", str(broken), *more, "--max_steps", "2")
    (broken / "completed").unlink()
    job("--output_dir", str(broken), *more, "--max_steps", "4", "--resume_anyway")
    one, other = weights(whole), weights(broken)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_has_no_b_is_refused(job: Job) -> None:
    with pytest.raises(UserError, match=r"^found --loraplus_lr_ratio 16, and no B of an adapter is trained"):
        job("--full_finetune", "--bits", "32", "--max_steps", "1", "--loraplus_lr_ratio", "16")
    with pytest.raises(UserError, match="--loraplus_lr_ratio"):
        job("--loraplus_lr_ratio", "0")
