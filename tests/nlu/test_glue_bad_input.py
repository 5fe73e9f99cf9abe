"""Bad input ends with exit code 2 and one line that says what was found, what is needed and what to do."""

from __future__ import annotations

import errno
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_encoders import Run, write_encoder, write_rows
from transformers import LlamaConfig

from sharelora.support.errors import run_main
from sharelora.training.arguments import ADAPTER

Refused = Callable[..., None]
QUICK = ("--num_train_epochs", "1", "--max_train_samples", "60")


@pytest.fixture
def refused(
    words: list[str], root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refused:
    """Run the entry point with more flags; check the exit code, that there is one line, and what is in it."""
    spec = importlib.util.spec_from_file_location("run_glue_entry", root / "NLU" / "run_glue_share.py")
    assert spec is not None and spec.loader is not None
    entry = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(entry)

    def check(more: str | list[str], *expected: str) -> None:
        flags = more.split() if isinstance(more, str) else more
        monkeypatch.setattr(sys, "argv", ["run_glue_share.py", *words, *flags])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_main(entry.main)
        # Bars that transformers draws are not lines of ours.
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert ended.value.code == 2 and len(lines) == 1
        for word in expected:
            assert word in lines[0], lines[0]

    return check


@pytest.fixture
def adapter(job: Run, tmp_path: Path) -> Path:
    """A trained CoLA adapter."""
    job("--share", "a", *QUICK)
    return tmp_path / "out" / ADAPTER


def use(adapter: Path, *more: str) -> list[str]:
    """Flags that evaluate an adapter."""
    return ["--lora_path", str(adapter), "--output_dir", str(adapter.parent.parent / "evaluation"), *more]


def test_no_model_and_missing_models(refused: Refused, words: list[str], tmp_path: Path, encoder: Path) -> None:
    refused("--model_name_or_path /no/such/model", "/no/such/model not found", "--tiny")
    refused("--model_name_or_path some-owner/some-model", "hub cannot be reached", "--tiny")
    shutil.copytree(encoder, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    refused(f"--model_name_or_path {tmp_path / 'm'}", "lacks weights")
    del words[:2]
    refused("", "no model is named", "--model_name_or_path", "--tiny")


def test_a_model_that_is_no_encoder(refused: Refused, tmp_path: Path, encoder: Path) -> None:
    shutil.copytree(encoder, tmp_path / "t5")
    (tmp_path / "t5" / "config.json").write_text(json.dumps({"model_type": "clip_vision_model"}))
    refused(f"--model_name_or_path {tmp_path / 't5'}", "clip_vision_model", "no classifier")
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1}
    LlamaConfig(**small, vocab_size=32).save_pretrained(tmp_path / "t5")
    refused(f"--model_name_or_path {tmp_path / 't5'}", "type 'llama'", "--lora_modules")
    broken = {"model_type": "roberta", "hidden_size": "wide"}
    (tmp_path / "t5" / "config.json").write_text(json.dumps(broken))
    refused(f"--model_name_or_path {tmp_path / 't5'}", "has 'wide' as hidden_size; need a whole number")


def test_a_model_that_lacks_weights_of_the_backbone(refused: Refused, tmp_path: Path, encoder: Path) -> None:
    shutil.copytree(encoder, tmp_path / "m")
    config = json.loads((encoder / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    refused(f"--model_name_or_path {tmp_path / 'm'}", "lacks 16 weights", "layer.2")


def test_unknown_and_missing_tasks(refused: Refused, words: list[str]) -> None:
    refused("--task_name colla", "unknown task colla", "did you mean cola")
    refused("--task_name wnli", "no data set wnli")
    at = words.index("--task_name")
    del words[at : at + 2]
    refused("", "neither a task nor own files", "--task_name")
    refused("--train_file /no/such/file.csv", "/no/such/file.csv")


def test_malformed_rows(refused: Refused, glue_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(glue_root, tmp_path / "data")
    monkeypatch.setenv("SHARELORA_DATA", str(tmp_path / "data"))
    file = tmp_path / "data" / "glue" / "RTE" / "train.tsv"
    write_rows(file, [("index", "sentence1", "label"), (0, "a", "entailment")])
    refused("--task_name rte", "sentence2", "train.tsv")
    write_rows(file, [("index", "sentence1", "sentence2", "label"), (0, "a", "b", "maybe")])
    refused("--task_name rte", "maybe", "entailment")
    write_rows(file, [("index", "sentence1", "sentence2", "label")])
    refused("--task_name rte", "train")
    file.unlink()
    refused("--task_name rte", "need train")


def test_too_long_a_sequence_and_too_short_a_one(refused: Refused) -> None:
    refused("--max_seq_length 65", "65", "at most 64 tokens")
    refused("--max_seq_length 2", "max_seq_length 2")


def test_amounts_out_of_range(refused: Refused) -> None:
    refused("--held_out 1.5", "held_out 1.5")
    refused("--held_out 5000", "nothing to train on")
    refused("--max_train_samples 0", "--max_train_samples: found '0'; need a whole number of at least 1")


def test_metrics_that_the_task_does_not_have(refused: Refused) -> None:
    refused("--selection_metric accuracy", "accuracy", "matthews_correlation, loss")
    refused("--task_name stsb --label_smoothing_factor 0.1", "--label_smoothing_factor")


def test_modules_and_groups_that_do_not_fit(refused: Refused) -> None:
    refused("--lora_modules query,valu", "valu", "match nothing")
    refused("--share_groups 0-5", "0 to 1")
    refused("--attn_implementation flash_attention_2", "cannot be loaded", "FlashAttention2")


def test_methods_that_an_architecture_has_no_place_for(refused: Refused, tmp_path: Path) -> None:
    other = write_encoder(tmp_path / "d", "distilbert")
    refused(f"--model_name_or_path {other} --method prefix", "distilbert", "takes no prefix")


def test_an_adapter_of_another_task(refused: Refused, adapter: Path) -> None:
    refused(use(adapter, "--task_name", "sst2"), "was trained for cola", "found task sst2")
    (adapter / "glue_task.json").unlink()  # without a record, the head's shape is what is known
    refused(use(adapter, "--task_name", "mnli"), "head", "another task", "--new_head")


def test_a_model_of_another_task(refused: Refused, job: Run, tmp_path: Path) -> None:
    job("--method", "full", *QUICK)
    model, out = tmp_path / "out" / "model", f"--output_dir {tmp_path / 'e'}"
    refused(f"--model_name_or_path {model} --do_eval --task_name sst2 {out}", "was trained for cola", "sst2")
    (model / "glue_task.json").unlink()
    refused(f"--model_name_or_path {model} --do_eval --task_name sst2 {out}", "unacceptable", "negative", "--new_head")
    refused(f"--model_name_or_path {model} --do_eval --task_name mnli {out}", "another shape", "--new_head")
    refused(f"--model_name_or_path {model} --lora_path {model} {out}", "whole model", "--model_name_or_path")


def test_an_adapter_of_another_model(refused: Refused, adapter: Path, tmp_path: Path) -> None:
    same_shape = write_encoder(tmp_path / "b", seed=5)
    refused(use(adapter, "--model_name_or_path", str(same_shape)), "other", "--model_name_or_path")
    (adapter / "glue_task.json").unlink()
    for name, settings in (("c", {"num_hidden_layers": 1}), ("d", {"hidden_size": 48})):
        other = write_encoder(tmp_path / name, **settings)
        refused(use(adapter, "--model_name_or_path", str(other)), "another")


def test_flags_that_say_another_adapter(refused: Refused, adapter: Path) -> None:
    refused(use(adapter, "--lora_r", "4"), "r 8", "--lora_r 4")
    refused(use(adapter, "--share", "none"), "shares a", "other sharing flags")
    refused(use(adapter, "--method", "bitfit"), "low-rank adapter", "bitfit")
    refused(use(adapter, "--lora_modules", "key"), "query, value", "--lora_modules key")


def test_adapters_that_are_missing_or_damaged(refused: Refused, adapter: Path, tmp_path: Path) -> None:
    refused(use(tmp_path / "none"), "none not found")
    file = adapter / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    refused(use(adapter), "altered")
    file.rename(adapter / "adapter_model.bin")
    refused(use(adapter), "pickle")


@pytest.mark.parametrize("method", ["bitfit"])
def test_altered_weights_of_other_methods(refused: Refused, job: Run, tmp_path: Path, method: str) -> None:
    job("--method", method, *QUICK)
    folder = tmp_path / "out" / ADAPTER
    refused(use(folder, "--method", "houlsby"), "was trained with bitfit", "houlsby")
    data = bytearray((folder / "trained.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "trained.safetensors").write_bytes(bytes(data))
    refused(use(folder), "truncated or altered")
    (folder / "glue_task.json").unlink()
    refused(use(folder), "glue_task.json")


def test_a_loralib_file_without_alpha(refused: Refused, tmp_path: Path) -> None:
    torch.save({"roberta.encoder.layer.0.attention.self.query.lora_A": torch.zeros(2, 32)}, tmp_path / "lora.bin")
    refused(use(tmp_path / "lora.bin"), "does not say alpha", "--lora_alpha")
    refused(use(tmp_path / "lora.bin", "--lora_alpha", "16"), "only one of lora_A and lora_B")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "lora.bin")
    refused(use(tmp_path / "lora.bin", "--lora_alpha", "16"), "cannot be read as weights alone")


def test_nothing_to_evaluate(refused: Refused, tmp_path: Path) -> None:
    refused("--do_eval", "has no head for this task", "--lora_path")
    refused("--do_train false --do_eval false", "there is nothing to do")


def test_an_unfinished_run_is_not_evaluated_by_guess(refused: Refused, adapter: Path) -> None:
    (adapter.parent / "completed").unlink()
    refused("--do_eval", "unfinished run", "--lora_path", "checkpoint-3")


def test_an_adapter_as_output_folder(refused: Refused, adapter: Path) -> None:
    refused(f"--output_dir {adapter}", "is an adapter", "--lora_path")


def test_no_disk_space(refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for method, place in (
        ("share_a", "peft.peft_model.safe_save_file"),
        ("bitfit", "sharelora.training.glue.record.save_file"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            out = tmp_path / method
            more = f"--method {method} --output_dir {out} {' '.join(QUICK)}"
            refused(more, "checkpoint-3", "No space left on device", "free space")
            refused(f"{more} --save_strategy no", ADAPTER, "No space left on device")
        assert not list(out.rglob("*.safetensors")) and not (out / "completed").exists()


def test_too_little_memory(refused: Refused, monkeypatch: pytest.MonkeyPatch, job: Run) -> None:
    monkeypatch.setattr("sharelora.memory.estimator.RUNTIME", {"cpu": 10**15, "cuda": 10**15})
    refused("", "does NOT fit", "--per_device_train_batch_size 8", "saves", "--tiny", "--ignore_memory")
    job("--ignore_memory", *QUICK)


def test_memory_that_runs_out_and_a_loss_that_explodes(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    refused("--learning_rate 1e30 --max_grad_norm 0 --method full", "--learning_rate")

    def full(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr("sharelora.training.glue.trainer.GlueTrainer.training_step", full)
    refused("--overwrite_output_dir", "memory ran out", "--per_device_train_batch_size 8", "saves")
    refused("--overwrite_output_dir --method bitfit", "memory ran out", "need less", "--max_seq_length")


@pytest.mark.parametrize(("name", "found"), [("FSDP", "FSDP1"), ("DEEPSPEED", "DeepSpeed")])
def test_sharded_training(refused: Refused, monkeypatch: pytest.MonkeyPatch, name: str, found: str) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    refused("", found)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--num_train_epochs", "0"), "found --num_train_epochs 0"),
        (("--max_steps", "0"), "found --max_steps 0"),
        (("--per_device_train_batch_size", "5000", "--dataloader_drop_last"), "no batch of 5,000 rows"),
        (("--per_device_train_batch_size", "5000", "--dataloader_drop_last", "--dry_run"), "no batch of 5,000 rows"),
    ],
)
def test_a_run_that_would_make_no_update(
    refused: Refused, tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    refused(["--do_train", *flags], message)
    assert not (tmp_path / "out").exists()
