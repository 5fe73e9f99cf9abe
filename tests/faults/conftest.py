"""A small model, a data set, and a worker that runs commands with faults."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "training"))
sys.path.append(str(Path(__file__).resolve().parent.parent / "core"))
from faulty import Worker
from small_llama import write_data, write_model

MORE = (
    "--bits 32 --optim adamw_torch --use_cpu --max_steps 14 --save_steps 2 --logging_steps 3 --lora_r 4"
    " --learning_rate 1e-2 --per_device_train_batch_size 4 --per_device_eval_batch_size 4 --lora_dropout 0.1"
    " --gradient_accumulation_steps 1 --source_max_len 160 --target_max_len 32 --eval_dataset_size 8 --share a"
    " --gradient_checkpointing false --do_eval --eval_strategy steps --eval_steps 4 --save_total_limit 2"
)


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """One process for all tests."""
    made = Worker(tmp_path_factory.mktemp("logs"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command line of a short run with dropout, evaluations and rotation, without its output folder."""
    folder = tmp_path_factory.mktemp("small")
    data, model = write_data(folder / "rows.jsonl"), write_model(folder / "model")
    return f"--model_name_or_path {model} --dataset {data} --dataset_format alpaca {MORE}".split()


@pytest.fixture(scope="session")
def whole(worker: Worker, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    ended = worker.run([*words, "--output_dir", str(out)])
    assert ended.code == 0, ended.log
    return out
