"""Bad input ends with exit code 2 and one line that says what was found, what is needed and what to do."""

from __future__ import annotations

import errno
import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from outcome import Command, Outcome
from small_llama import write_model

from sharelora.trainer.serialization import save_state


def refused(outcome: Outcome, *words: str) -> None:
    """Check the exit code, that there is one line, and what is in it."""
    assert outcome.code == 2, outcome
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1, outcome.err
    for word in words:
        assert word in outcome.err


@pytest.fixture
def adapter(command: Command, tmp_path: Path) -> Path:
    """A trained adapter."""
    assert command().code == 0
    return tmp_path / "out" / "adapter_model"


def use(adapter: Path, tmp_path: Path) -> dict[str, str]:
    """Flags that evaluate an adapter."""
    return {"adapter": str(adapter), "output_dir": str(tmp_path / "evaluation"), "do_eval": "true"}


def test_missing_model_folder(command: Command) -> None:
    refused(command(model_name_or_path="/no/such/model"), "/no/such/model not found", "--tiny")


def test_model_of_the_hub_without_a_hub(command: Command) -> None:
    refused(command(model_name_or_path="some-owner/some-model"), "hub cannot be reached", "MODEL=", "--tiny")


def test_model_without_weights(command: Command, tmp_path: Path, model_folder: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    refused(command(model_name_or_path=str(tmp_path / "m")), "lacks weights")


def test_missing_data_file(command: Command) -> None:
    refused(command(dataset="/no/such/data.jsonl"), "/no/such/data.jsonl not found")


def test_unknown_data_set(command: Command) -> None:
    refused(command(dataset="alpacca"), "did you mean alpaca")


def test_wrong_columns(command: Command, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"left": "a", "right": "b"}) + "\n")
    refused(command(dataset=str(tmp_path / "x.jsonl")), "left, right", "--dataset_format")


def test_empty_data(command: Command, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("")
    refused(command(dataset=str(tmp_path / "x.jsonl")), "x.jsonl")


def test_unknown_flag(command: Command) -> None:
    refused(command(learning_rte="1"), "unknown flag --learning_rte", "--learning_rate")


def test_unknown_share_mode(command: Command) -> None:
    refused(command(share="q"), "share", "none, a, b, ab")


def test_modules_that_match_nothing(command: Command) -> None:
    refused(command(lora_modules="q_proj,w_proj"), "w_proj", "match nothing", "q_proj")


def test_shared_modules_that_are_not_adapted(command: Command) -> None:
    refused(command(lora_modules="q_proj", share_modules="v_proj"), "v_proj")


def test_layer_groups_beyond_the_model(command: Command) -> None:
    refused(command(share_groups="0-5"), "[2, 3, 4, 5]", "0 to 1")


def test_overlapping_layer_groups(command: Command) -> None:
    refused(command(share_groups="0,1;1,0"), "overlap")


@pytest.mark.parametrize("rank", ["0", "-4", "x"])
def test_rank_below_one(command: Command, rank: str) -> None:
    refused(command(lora_r=rank), "--lora_r", "at least 1")


@pytest.mark.parametrize(("layers", "hidden"), [(1, 32), (2, 48)])
def test_adapter_for_another_model(command: Command, adapter: Path, tmp_path: Path, layers: int, hidden: int) -> None:
    other = str(write_model(tmp_path / "other", layers, hidden))
    refused(command(**use(adapter, tmp_path), model_name_or_path=other), "model")


def test_missing_adapter(command: Command, tmp_path: Path) -> None:
    refused(command(**use(tmp_path / "none", tmp_path)), "adapter")


def test_truncated_adapter(command: Command, adapter: Path, tmp_path: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(command(**use(adapter, tmp_path)), "adapter_model.safetensors")


def test_altered_adapter(command: Command, adapter: Path, tmp_path: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    refused(command(**use(adapter, tmp_path)), "altered")


def test_pickle_in_place_of_safetensors(command: Command, adapter: Path, tmp_path: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    refused(command(**use(adapter, tmp_path)), "pickle")
    (adapter / "adapter_model.bin").rename(adapter / "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").write_bytes(b"\x80\x04K\x01.")
    refused(command(**use(adapter, tmp_path)), "adapter_model.safetensors")


def test_pickled_model(command: Command, tmp_path: Path, model_folder: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "pytorch_model.bin")
    refused(command(model_name_or_path=str(tmp_path / "m")), "pickled weights")


def full_disk(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_no_disk_space_for_a_checkpoint(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing half-written stays, an earlier checkpoint does, and the run goes on once there is space."""
    real, calls = save_state, []

    def second_time_full(*args: Any) -> None:
        calls.append(args)
        full_disk() if len(calls) > 1 else real(*args)

    with monkeypatch.context() as patch:
        patch.setattr("sharelora.trainer.trainer.save_state", second_time_full)
        refused(command(save_steps="1"), "checkpoint-2", "No space left on device", "free space")
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-1"]
    assert not (tmp_path / "out" / "completed").exists()
    assert command(save_steps="1").code == 0


def test_no_disk_space_for_the_adapter(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("peft.peft_model.safe_save_file", full_disk)
    refused(command(save_strategy="no"), "adapter_model", "No space left on device")
    assert not list(tmp_path.rglob("*adapter_model*")) and not (tmp_path / "out" / "completed").exists()


def test_a_limit_on_the_size_of_files(command: Command, tmp_path: Path) -> None:
    """The same with a real refusal of the system, in safetensors' own code."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, before[1]))
    try:
        outcome = command()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    refused(outcome, "checkpoint-2", "free space")
    assert not list(tmp_path.rglob("*adapter_model*"))


def test_output_folder_that_cannot_be_written(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")  # root may write anywhere, but not below a file
    refused(command(output_dir=str(tmp_path / "file" / "out")), "cannot be written", "--output_dir")


def test_an_adapter_as_output_folder(command: Command, adapter: Path) -> None:
    refused(command(output_dir=str(adapter)), "is an adapter", "--adapter")


@pytest.mark.parametrize("bits", ["4", "8"])
def test_quantised_base_without_bitsandbytes(command: Command, monkeypatch: pytest.MonkeyPatch, bits: str) -> None:
    monkeypatch.setattr("sharelora.training.resolve.has_bitsandbytes", lambda: False)
    refused(command(bits=bits), f"--bits {bits}", "bitsandbytes", "--bits 16")


def test_a_reporter_that_is_not_installed(command: Command) -> None:
    refused(command(report_to="mlflow"), "--report_to mlflow", "pip install mlflow")


def test_settings_that_the_trainer_refuses(command: Command) -> None:
    refused(command(load_best_model_at_end="true", eval_strategy="epoch"), "load_best_model_at_end")


def test_reentrant_checkpointing_in_several_processes(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    changes = {"gradient_checkpointing": "true", "gradient_checkpointing_kwargs": '{"use_reentrant": true}'}
    refused(command(**changes), "re-entrant")


def test_selection_on_test_data(command: Command) -> None:
    changes = {"do_mmlu_eval": "true", "mmlu_split": "test", "metric_for_best_model": "mmlu_accuracy"}
    refused(command(**changes), "never on test")


def test_a_checkpoint_that_is_not_whole(command: Command, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-2").mkdir()
    refused(command(resume_from_checkpoint=str(tmp_path / "checkpoint-2")), "is incomplete or damaged")
    refused(command(resume_from_checkpoint="true"), "has no checkpoint")


def test_too_little_memory(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr("sharelora.training.trainer.ShareTrainer.training_step", full)
    refused(command(), "memory ran out", "2 GiB", "--per_device_train_batch_size 2", "saves")


def test_a_loss_that_explodes(command: Command) -> None:
    refused(command(learning_rate="1e30", max_grad_norm="0", max_steps="6"), "loss is", "--learning_rate")


def test_an_altered_checkpoint_is_not_resumed(command: Command, adapter: Path) -> None:
    folder = adapter.parent
    (folder / "completed").unlink()
    file = folder / "checkpoint-2" / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    refused(command(), "checkpoint-2", "altered")


@pytest.mark.parametrize(("name", "value"), [("fsdp", "full_shard"), ("deepspeed", "zero2.json")])
def test_engines_chosen_by_flags(command: Command, name: str, value: str) -> None:
    refused(command(**{name: value}), f"--{name}", "accelerate launch --config_file")


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP1"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "FSDP2"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed"),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "mixed_precision"),
    ],
)
def test_engines_that_cannot_do_it(
    command: Command, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], found: str, tmp_path: Path
) -> None:
    """Nothing is written; every rule is in tests/training/test_engines.py."""
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    refused(command(), found)
    assert not (tmp_path / "out").exists()
