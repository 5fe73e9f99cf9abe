"""What the tests of real jobs in several processes start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from together import GLUE, NLG, Worker, dealt, went_well, write_data, write_model


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A process with everything imported."""
    made = Worker(tmp_path_factory.mktemp("logs"), f"{GLUE}.job", f"{NLG}.job")
    yield made
    made.close()


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A short run of 29 rows, 8 per update, over three epochs of which the last update has 5 rows."""
    folder = tmp_path_factory.mktemp("inputs")
    text = (
        f"--model_name_or_path {write_model(folder / 'model')} --dataset {write_data(folder / 'rows.jsonl')}"
        " --dataset_format alpaca --bits 32 --optim adamw_torch --use_cpu --num_train_epochs 3 --max_steps -1"
        " --save_steps 4 --logging_steps 2 --lora_r 4 --share ab --learning_rate 1e-3 --max_train_samples 29"
        " --per_device_eval_batch_size 4 --source_max_len 160 --target_max_len 32 --eval_dataset_size 7"
        " --gradient_checkpointing false --eval_strategy steps --eval_steps 6 --do_eval"
    )
    return text.split()


@pytest.fixture(scope="module")
def alone(worker: Worker, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of it."""
    out = tmp_path_factory.mktemp("alone") / "out"
    went_well([worker.run([*words, *dealt(8, 1), "--output_dir", str(out)])])
    return out
