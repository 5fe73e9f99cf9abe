"""Whole runs in this process: what they train, what they leave, and what the same command does the next time."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_llama import Job

from sharelora.support.errors import UserError
from sharelora.training.instructions.job import InstructionArguments

WEIGHTS = "adapter_model.safetensors"


def result(args: InstructionArguments, kind: str = "") -> dict[str, Any]:
    return json.loads((args.output_dir / f"result{kind}.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / WEIGHTS)


def same(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("share", ["none", "a", "b", "ab"])
def test_training_lowers_the_held_out_loss(job: Job, share: str) -> None:
    args = job("--share", share, "--do_eval", "--max_steps", "20", "--save_steps", "20", "--learning_rate", "3e-3")
    metrics = result(args)["metrics"]
    assert metrics["eval_loss"] < metrics["eval_loss_before"] - 0.05
    assert metrics["steps"] == 20 and metrics["tokens"] > 1000


def test_a_run_leaves_its_files(job: Job) -> None:
    args = job("--do_eval", "--do_predict", "--run_name", "mine")
    out = args.output_dir
    expected = {"adapter_model", "checkpoint-2", "checkpoint-4", "completed", "loss.csv", "loss.png"}
    expected |= {"metrics.json", "predictions.jsonl", "result.json", "settings.json"}
    assert {path.name for path in out.iterdir()} == expected
    assert json.loads((out / "metrics.json").read_text())["run_name"] == "mine"
    assert (out / "loss.csv").read_text().startswith("step,epoch,loss,eval_loss")
    assert not [path for path in out.rglob("*") if "tokenizer" in path.name or path.name == "training_args.bin"]


def test_the_saved_adapter_has_each_trained_element_once(job: Job) -> None:
    args = job("--share", "ab")
    found = result(args)
    saved = weights(args.output_dir / "adapter_model")
    assert sum(tensor.numel() for tensor in saved.values()) == found["plan"]["trainable"] < found["plan"]["unshared"]
    assert found["files"]["adapter"]["elements"] == found["plan"]["trainable"]
    assert same(args.output_dir / "adapter_model", args.output_dir / "checkpoint-4")


def test_the_log_has_speed_memory_and_the_gradient_of_each_shared_matrix(job: Job) -> None:
    args = job("--share", "a", "--lora_modules", "q_proj,v_proj")
    header = (args.output_dir / "loss.csv").read_text().splitlines()[0]
    columns = header.split(",")
    shared = [name for name in columns if name.startswith("grad_norm/")]
    assert len(shared) == 2 and all("/*/" in name for name in shared)
    assert {"tokens_per_second", "peak_memory_gb", "grad_norm", "learning_rate"} <= set(columns)


def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(job: Job, tmp_path: Path) -> None:
    out = [tmp_path / name for name in "abc"]
    for folder, seed in zip(out, "112", strict=True):
        job("--output_dir", str(folder), "--seed", seed, "--lora_dropout", "0.1")
    assert same(out[0] / "adapter_model", out[1] / "adapter_model")
    assert not same(out[0] / "adapter_model", out[2] / "adapter_model")


@pytest.mark.parametrize("order", [pytest.param("group_by_length", marks=pytest.mark.slow), "random"])
def test_an_interrupted_run_goes_on_bit_for_bit(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, order: str
) -> None:
    """Stopped in the second epoch, with dropout and evaluations: the adapter is the one of an uninterrupted run."""
    more = ("--max_steps", "14", "--save_steps", "5", "--do_eval", "--eval_strategy", "steps", "--eval_steps", "3")
    more = (*more, "--lora_dropout", "0.1", "--train_sampling_strategy", order, "--gradient_accumulation_steps", "2")
    whole, broken = str(tmp_path / "whole"), str(tmp_path / "broken")
    job("--output_dir", whole, *more)

    def fail(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sharelora.trainer.callbacks.Speed.on_step_begin", fail, raising=False)
        with pytest.raises(KeyboardInterrupt):
            job("--output_dir", broken, *more)
    assert not (Path(broken) / "completed").exists()
    with caplog.at_level(logging.INFO, "sharelora"):
        args = job("--output_dir", broken, *more)
    assert f"resuming from {broken}/checkpoint-5" in caplog.text
    assert same(Path(whole) / "adapter_model", Path(broken) / "adapter_model")
    assert result(args)["metrics"]["eval_loss_before"] > 0


def test_a_resumed_run_refuses_other_settings(job: Job) -> None:
    job()
    with pytest.raises(UserError, match=r"lora_r 4, this one has 8.*--overwrite_output_dir"):
        job("--lora_r", "8")
    args = job("--lora_r", "8", "--overwrite_output_dir")
    assert result(args)["plan"]["ranks"] == [8]


def test_the_best_checkpoint_on_validation_is_what_is_left(job: Job) -> None:
    """Though no checkpoint is due when it is found."""
    more = "--do_eval --eval_strategy steps --eval_steps 2 --save_steps 12 --load_best_model_at_end --max_steps 12"
    rising = "--lr_scheduler_type constant_with_warmup --warmup_steps 12 --learning_rate 2"  # until the loss explodes
    args = job(*more.split(), *rising.split())
    metrics = result(args)["metrics"]
    assert metrics["eval_loss"] == pytest.approx(metrics["eval_loss_best"], abs=1e-5)
    state = json.loads((args.output_dir / "checkpoint-12" / "trainer_state.json").read_text())
    assert state["best_global_step"] < 12
    best = args.output_dir / f"checkpoint-{state['best_global_step']}"
    assert same(args.output_dir / "adapter_model", best)


def test_the_last_evaluation_is_not_repeated(job: Job, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """The weights are the same, so the result is; it is written once."""
    with caplog.at_level(logging.INFO, "sharelora"):
        args = job("--do_eval", "--eval_strategy", "steps", "--eval_steps", "2")
    assert caplog.text.count("step 4/4  eval loss") == 1 and caplog.text.count("wrote ") == 1
    once = result(args)["metrics"]
    more = ("--do_eval", "--eval_strategy", "steps", "--eval_steps", "3", "--output_dir", str(tmp_path / "again"))
    again = result(job(*more))["metrics"]  # evaluated after training, as no evaluation was due
    assert once["eval_loss"] == pytest.approx(again["eval_loss"], rel=1e-6) and once.keys() == again.keys()


def test_evaluation_loss_does_not_depend_on_the_batch_size(job: Job, tmp_path: Path) -> None:
    losses = []
    for size in ("1", "3", "8"):
        args = job(
            "--do_train",
            "false",
            "--do_eval",
            "--output_dir",
            str(tmp_path / size),
            "--per_device_eval_batch_size",
            size,
        )
        losses.append(result(args)["metrics"]["eval_loss"])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_a_dry_run_loads_and_writes_nothing(
    job: Job, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharelora.training.job.load_model", lambda *_, **__: pytest.fail("weights were loaded"))
    with caplog.at_level(logging.INFO, "sharelora"):
        args = job("--dry_run", "--share", "a")
    assert not args.output_dir.exists()
    assert "fewer" in caplog.text and "fits" in caplog.text and "dry run" in caplog.text


def test_a_run_that_does_not_fit_is_refused_with_ways_out(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharelora.memory.estimator.RUNTIME", {"cpu": 10**15, "cuda": 10**15})
    with pytest.raises(UserError, match=r"does NOT fit; use --.*saves.*MODEL=.*--tiny.*--ignore_memory"):
        job()
    job("--ignore_memory")


def test_full_fine_tuning_writes_a_model_that_loads(job: Job) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    args = job("--full_finetune", "--do_eval")
    folder = args.output_dir / "model"
    AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    metrics = result(args)["metrics"]
    assert metrics["eval_loss"] < metrics["eval_loss_before"]
    again = job("--full_finetune", "--do_eval")
    assert result(again, "_evaluate")["metrics"]["eval_loss"] == pytest.approx(metrics["eval_loss"], rel=1e-6)


def test_checkpointing_and_accumulation_change_nothing(job: Job, tmp_path: Path) -> None:
    """The loss is per token over the whole update, so two batches of two are one of four."""
    outs = [tmp_path / name for name in "abc"]
    fixed = ("--learning_rate", "1e-3", "--train_sampling_strategy", "sequential")
    job("--output_dir", str(outs[0]), *fixed)
    job("--output_dir", str(outs[1]), *fixed, "--gradient_checkpointing")
    halves = ("--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2")
    job("--output_dir", str(outs[2]), *fixed, *halves)
    first, *others = (weights(out / "adapter_model") for out in outs)
    for other in others:
        assert max(float((first[name] - other[name]).abs().max()) for name in first) < 2e-5


def test_packed_rows_train(job: Job) -> None:
    args = job("--packing", "--pack_len", "256", "--do_eval", "--max_steps", "6")
    metrics = result(args)["metrics"]
    assert metrics["eval_loss"] < metrics["eval_loss_before"] and metrics["tokens"] > 0


def test_training_can_go_on_from_an_adapter(job: Job, tmp_path: Path) -> None:
    """Continual tuning: the next task starts from the adapter of the last one."""
    first = job("--do_eval")
    second = job("--adapter", str(first.output_dir), "--do_train", "--do_eval", "--output_dir", str(tmp_path / "next"))
    before, after = result(first)["metrics"], result(second)["metrics"]
    assert after["eval_loss_before"] == pytest.approx(before["eval_loss"], rel=1e-5)
    assert after["eval_loss"] < before["eval_loss"]


def test_the_adapter_that_is_trained_on_is_the_one_that_is_shown(
    job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = job("--share", "ab", "--lora_r", "4", "--lora_alpha", "8", "--lora_modules", "q_proj,v_proj")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        second = job("--adapter", str(first.output_dir), "--do_train", "--output_dir", str(tmp_path / "next"))
    plan = result(first)["plan"]
    assert result(second)["plan"]["hash"] == plan["hash"]
    assert f"{plan['trainable']:,} parameters in 4 matrices" in caplog.text and plan["hash"] in caplog.text
    settings = result(second)["config"]
    assert (settings["share"], settings["lora_r"], settings["lora_alpha"]) == ("ab", 4, 8)
    assert sorted(settings["lora_modules"]) == ["q_proj", "v_proj"]


def test_an_unfinished_run_is_not_evaluated_by_guess(job: Job) -> None:
    args = job()
    (args.output_dir / "completed").unlink()
    with pytest.raises(UserError, match=r"unfinished run.*--adapter .*checkpoint-4.*--adapter none"):
        job("--do_train", "false", "--do_eval")
    assert job("--adapter", str(args.output_dir / "checkpoint-4"), "--do_eval", "--output_dir", str(args.output_dir))


def test_a_model_of_the_hub_is_recorded_by_its_id(
    job: Job, model_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It may be loaded from a folder of the cache, whose path means nothing on another machine."""
    monkeypatch.setattr("sharelora.training.model.resolve_model", lambda *_: str(model_folder))
    args = job("--model_name_or_path", "owner/name")
    config = json.loads((args.output_dir / "adapter_model" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == result(args)["model"] == "owner/name"
    args = job("--output_dir", str(tmp_path / "local"))
    config = json.loads((args.output_dir / "adapter_model" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == result(args)["model"] == str(model_folder.resolve())
