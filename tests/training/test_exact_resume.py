"""A run that is stopped anywhere, any number of times, is the uninterrupted run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_llama import Job
from stops import same_state, stop_often

from sharelora.training.checkpoints import checkpoints

ADAPTER = "adapter_model/adapter_model.safetensors"
# Five updates of two an epoch; the log, the evaluations and the checkpoints have different rhythms.
COMMON = "--max_steps 5 --save_steps 4 --logging_steps 2 --lora_dropout 0.1 --do_eval --max_train_samples 16"
COMMON += " --gradient_accumulation_steps 2"
RHYTHMS = {
    "steps": "--eval_strategy steps --eval_steps 3",
    "epochs": "--eval_strategy epoch --logging_strategy epoch --train_sampling_strategy random",
    "best": "--eval_strategy steps --eval_steps 2 --save_steps 2 --load_best_model_at_end --save_total_limit 1"
    " --learning_rate 1 --lr_scheduler_type constant_with_warmup --warmup_steps 5",
}


@pytest.mark.parametrize(
    ("rhythm", "where"),
    [
        ("steps", "on_step_begin"),
        ("epochs", "on_step_begin"),
        ("best", "on_step_begin"),
        ("epochs", "on_prediction_step"),
    ],
)
def test_stopped_in_every_update_or_evaluation_it_is_the_same_run(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rhythm: str, where: str
) -> None:
    more = (*COMMON.split(), *RHYTHMS[rhythm].split())
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    job("--output_dir", str(whole), *more)
    stops = stop_often(lambda: job("--output_dir", str(broken), *more), monkeypatch, where, 10)
    assert stops >= (5 if where == "on_step_begin" else 1)
    assert (whole / ADAPTER).read_bytes() == (broken / ADAPTER).read_bytes()
    same_state(whole, broken)
    results = [json.loads((out / "result.json").read_text())["metrics"] for out in (whole, broken)]
    for name in ("train_loss", "eval_loss", "eval_loss_before", "eval_loss_best", "steps", "tokens"):
        assert results[0][name] == results[1][name], name


def test_going_on_from_the_last_update_trains_no_further(job: Job, tmp_path: Path) -> None:
    """The run was killed between its last checkpoint and the end; the epoch is not over."""
    args = job("--max_steps", "4")
    adapter = (args.output_dir / ADAPTER).read_bytes()
    (args.output_dir / "completed").unlink()
    job("--max_steps", "4")
    assert (args.output_dir / ADAPTER).read_bytes() == adapter
    assert json.loads((args.output_dir / "result.json").read_text())["metrics"]["steps"] == 4
    assert [path.name for path in checkpoints(args.output_dir)] == ["checkpoint-2", "checkpoint-4"]
