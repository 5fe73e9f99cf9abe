"""A small model, a data set, and the job run in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_llama import Job, write_data, write_model

from sharelora.training.instructions.job import InstructionArguments, parse, run


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaMA of two layers with its tokenizer."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty Alpaca rows."""
    return write_data(tmp_path_factory.mktemp("data") / "rows.jsonl")


@pytest.fixture
def words(model_folder: Path, data_file: Path, tmp_path: Path) -> list[str]:
    """The command line of a short run into `tmp_path/out`; flags put behind it win."""
    text = (
        f"--model_name_or_path {model_folder} --dataset {data_file} --dataset_format alpaca"
        f" --output_dir {tmp_path}/out"
        " --bits 32 --optim adamw_torch --use_cpu --max_steps 4 --save_steps 2 --logging_steps 2 --lora_r 4"
        " --learning_rate 1e-2 --per_device_train_batch_size 4 --per_device_eval_batch_size 4"
        " --gradient_accumulation_steps 1 --source_max_len 160 --target_max_len 32 --eval_dataset_size 8"
        " --gradient_checkpointing false --max_new_tokens 4"
    )
    return text.split()


@pytest.fixture
def job(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Job:
    """Run the job with more flags; returns the parsed arguments. The plot, tested by itself, is not drawn."""
    monkeypatch.setattr("sharelora.reporting.history._plot", lambda rows: b"no plot in this test")

    def go(*more: str) -> InstructionArguments:
        args = parse([*words, *more])
        run(args)
        return args

    return go
