"""A small GPT-2, rows for it, and the job run in this process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "training"))
from small_gpt2 import Job, write_model, write_rows

from sharelora.training.nlg.job import NlgArguments, parse, run


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 of two layers with its tokenizer."""
    return write_model(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty-two rows of sixteen inputs."""
    return write_rows(tmp_path_factory.mktemp("rows") / "train.txt")


@pytest.fixture
def words(gpt2_folder: Path, rows_file: Path, tmp_path: Path) -> list[str]:
    """The command line of a short run into `tmp_path/out`, with LoRA's flags; flags put behind it win."""
    text = (
        f"--train_data {rows_file} --valid_data {rows_file} --init_checkpoint {gpt2_folder} --work_dir {tmp_path}/out"
        " --train_batch_size 4 --valid_batch_size 8 --grad_acc 1 --seq_len 64 --lora_dim 4 --lora_alpha 32"
        " --lora_dropout 0.1 --label_smooth 0.1 --lr 5e-3 --weight_decay 0.01 --correct_bias --adam_beta2 0.999"
        " --scheduler linear --warmup_step 1 --max_step 4 --save_interval 2 --log_interval 2 --eval_interval 100"
        " --random_seed 110 --use_cpu --platform local"
    )
    return text.split()


@pytest.fixture
def job(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Job:
    """Run the job with more flags. The plot, tested by itself, is not drawn."""
    monkeypatch.setattr("sharelora.reporting.history._plot", lambda rows: b"no plot in this test")

    def go(*more: str) -> tuple[NlgArguments, dict[str, Any]]:
        args = parse([*words, *more])
        session = run(args)
        return args, {} if session is None else session.metrics

    return go
