"""A run that is stopped anywhere, any number of times, is the uninterrupted run."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
from small_llama import Job
from stops import STATE, same_state, stop_often
from transformers import EarlyStoppingCallback

from sharelora.support.errors import UserError
from sharelora.trainer.checkpoints import checkpoints, damage, step_of, write_manifest
from sharelora.trainer.exact_state import PARTS
from sharelora.trainer.serialization import load_state, save_state
from sharelora.training import runner

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
        pytest.param("epochs", "on_step_begin", marks=pytest.mark.slow),
        pytest.param("best", "on_step_begin", marks=pytest.mark.slow),
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


def test_evaluations_change_nothing_of_the_training(job: Job, tmp_path: Path) -> None:
    more = "--max_steps 4 --lora_dropout 0.3 --do_eval"
    often, never = tmp_path / "often", tmp_path / "never"
    job("--output_dir", str(often), *more.split(), "--eval_strategy", "steps", "--eval_steps", "1")
    job("--output_dir", str(never), *more.split(), "--eval_on_start", "false")
    assert (often / ADAPTER).read_bytes() == (never / ADAPTER).read_bytes()


def test_going_on_from_the_last_update_trains_no_further(job: Job, tmp_path: Path) -> None:
    """The run was killed between its last checkpoint and the end; the epoch is not over."""
    args = job("--max_steps", "4")
    adapter = (args.output_dir / ADAPTER).read_bytes()
    (args.output_dir / "completed").unlink()
    job("--max_steps", "4")
    assert (args.output_dir / ADAPTER).read_bytes() == adapter
    assert json.loads((args.output_dir / "result.json").read_text())["metrics"]["steps"] == 4
    assert [path.name for path in checkpoints(args.output_dir)] == ["checkpoint-2", "checkpoint-4"]


def test_going_on_with_other_settings_uses_them(job: Job) -> None:
    constant = ("--lr_scheduler_type", "constant", "--learning_rate", "1e-2")
    args = job("--max_steps", "2", *constant)
    adapter = (args.output_dir / ADAPTER).read_bytes()
    for rate, same in (("0", True), ("1e-3", False)):
        (args.output_dir / "completed").unlink()
        job("--max_steps", "4", *constant[:2], "--learning_rate", rate, "--resume_anyway")
        assert ((args.output_dir / ADAPTER).read_bytes() == adapter) == same
        rmtree(args.output_dir / "checkpoint-4")
    log = json.loads((args.output_dir / "result.json").read_text())["config"]
    assert log["learning_rate"] == 1e-3


def test_a_damaged_best_checkpoint_is_said_before_anything_is_trained(job: Job) -> None:
    more = "--do_eval --eval_strategy steps --eval_steps 2 --save_steps 12 --load_best_model_at_end --max_steps 12"
    more += " --lr_scheduler_type constant_with_warmup --warmup_steps 12 --learning_rate 2"
    out = job(*more.split()).output_dir
    last = checkpoints(out)[-1]
    best = out / f"checkpoint-{json.loads((last / 'trainer_state.json').read_text())['best_global_step']}"
    assert best != last
    (out / "completed").unlink()
    weights = best / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    words = rf"{best.name}, the best checkpoint, is incomplete or damaged: {weights.name} is altered.*"
    words += "--load_best_model_at_end"
    with pytest.raises(UserError, match=words):
        job(*more.split())
    assert not (out / "completed").exists() and checkpoints(out)[-1] == last
    job(*more.split(), "--load_best_model_at_end", "false", "--resume_anyway")
    assert (out / "completed").exists()


@pytest.mark.slow
def test_patience_is_counted_over_interruptions(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that stops early stops at the same update, and stays stopped."""
    own = runner.open_session

    def patient(*args: Any) -> Any:
        session = own(*args)
        session.trainer.add_callback(EarlyStoppingCallback(2))
        return session

    monkeypatch.setattr(runner, "open_session", patient)
    more = "--max_steps 20 --do_eval --eval_strategy steps --eval_steps 1 --save_steps 1 --load_best_model_at_end"
    more += " --logging_steps 1 --learning_rate 1 --lr_scheduler_type constant_with_warmup --warmup_steps 8"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    job("--output_dir", str(whole), *more.split())
    stops = stop_often(lambda: job("--output_dir", str(broken), *more.split()), monkeypatch, "on_step_begin", 20)
    assert stops == step_of(checkpoints(whole)[-1]) < 20
    same_state(whole, broken)
    (broken / "completed").unlink()
    job("--output_dir", str(broken), *more.split())
    same_state(whole, broken)


def test_a_state_without_all_its_parts_is_refused(job: Job) -> None:
    out = job("--save_total_limit", "1").output_dir
    (out / "completed").unlink()
    place = checkpoints(out)[-1]
    state = load_state(place / STATE)
    assert set(state) == PARTS
    for name in ("processes", "optimizer", "skipped"):
        save_state(place / STATE, {key: value for key, value in state.items() if key != name})
        write_manifest(place, step_of(place))
        with pytest.raises(UserError, match=f"{STATE} lacks {name}; need the whole state"):
            job("--save_total_limit", "1")
    assert checkpoints(out) == [place]


def test_an_old_checkpoint_stays_until_the_new_one_is_verified(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def altered(path: Path) -> str | None:
        return "optimizer is altered" if path.name == "checkpoint-4" else damage(path)

    with monkeypatch.context() as patch:
        patch.setattr("sharelora.trainer.checkpoints.damage", altered)
        with pytest.raises(UserError, match="checkpoint-4 does not read as it was written: optimizer is altered"):
            job("--save_total_limit", "1")
    assert [path.name for path in checkpoints(tmp_path / "out")] == ["checkpoint-2", "checkpoint-4"]
