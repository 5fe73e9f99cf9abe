"""Memory that runs out, anywhere in a run, ends it with the estimate and the cheapest ways out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small_llama import Job

from sharelora.memory.advice import FlagNames
from sharelora.memory.machine import out_of_memory
from sharelora.support.errors import UserError
from sharelora.training.capacity import explained

CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to 9")
GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
NAMES = FlagNames("rows", "times", ("length",))


def fails(monkeypatch: pytest.MonkeyPatch, where: str, error: Exception) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(where, full)


@pytest.mark.parametrize("error", [GPU, CPU, MemoryError()])
def test_a_step_without_memory_ends_with_the_estimate_and_three_ways_out(
    job: Job, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fails(monkeypatch, "sharelora.training.trainer.ShareTrainer.training_step", error)
    with pytest.raises(UserError) as ended:
        job("--share", "none")
    said = str(ended.value)
    assert said.startswith("memory ran out (") and "\n" not in said and "more" not in said.split(";")[0]
    assert re.search(r"need about \d+ MB at the peak of a training step", said)
    assert "--per_device_train_batch_size 2 --gradient_accumulation_steps 2 (saves" in said
    assert len(re.findall(r"saves [\d.]+ [kM]B", said)) == 3


def test_the_advice_names_what_would_save_something_in_this_run(
    job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fails(monkeypatch, "sharelora.training.trainer.ShareTrainer.training_step", GPU)
    with pytest.raises(UserError, match="--gradient_checkpointing true"):
        job()
    with pytest.raises(UserError) as ended:
        job(*f"--gradient_checkpointing --bits 16 --per_device_train_batch_size 1 --output_dir {tmp_path}/b".split())
    assert "--gradient_checkpointing" not in str(ended.value) and "_batch_size" not in str(ended.value)


@pytest.mark.parametrize(
    ("where", "flags"),
    [
        ("sharelora.training.job.load_model", []),
        ("sharelora.training.trainer.ShareTrainer.prediction_step", ["--do_eval", "--eval_on_start", "false"]),
    ],
)
def test_loading_and_evaluating_without_memory_are_explained_too(
    job: Job, monkeypatch: pytest.MonkeyPatch, where: str, flags: list[str]
) -> None:
    fails(monkeypatch, where, CPU)
    with pytest.raises(UserError, match=r"memory ran out \(.*can't allocate memory.*saves"):
        job(*flags)


def test_where_nothing_was_estimated_the_advice_is_general(
    job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fails(monkeypatch, "sharelora.training.trainer.ShareTrainer.prediction_step", GPU)
    with pytest.raises(UserError, match=r"memory ran out \(CUDA.*\); need less; lower --per_device_train_batch_size"):
        job("--do_train", "false", "--do_eval", "--output_dir", str(tmp_path / "evaluation"))


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (GPU, True),
        (CPU, True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error: Exception, is_it: bool) -> None:
    assert out_of_memory(error) is is_it
    if not isinstance(error, ValueError):
        with pytest.raises(UserError if is_it else RuntimeError), explained(None, NAMES):
            raise error


def test_the_cpu_says_so_in_these_words() -> None:
    """The allocator's own refusal, of more than any machine has."""
    with pytest.raises(UserError, match="memory ran out"), explained(None, NAMES):
        torch.empty(1 << 60, dtype=torch.uint8)
