"""A finished run, and a way to start it again as if it had been interrupted."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "training"))
from small_llama import write_data, write_model

from sharelora.training.instructions.job import parse, run


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaMA of two layers with its tokenizer."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def command(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command line of a short run, without its output folder."""
    data = write_data(tmp_path_factory.mktemp("data") / "rows.jsonl")
    text = (
        f"--model_name_or_path {model_folder} --dataset {data} --dataset_format alpaca --bits 32 --optim adamw_torch"
        " --use_cpu --max_steps 2 --save_steps 1 --lora_r 4 --per_device_train_batch_size 4"
        " --gradient_accumulation_steps 1 --source_max_len 160 --target_max_len 32 --gradient_checkpointing false"
    )
    return text.split()


@pytest.fixture(scope="session")
def finished(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two updates."""
    out = tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharelora.reporting.history._plot", lambda rows: b"no plot in this test")
        run(parse([*command, "--output_dir", str(out)]))
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy of that folder, as if the run had been killed before its second checkpoint."""
    folder = Path(shutil.copytree(finished, tmp_path / "out"))
    (folder / "completed").unlink()
    shutil.rmtree(folder / "checkpoint-2")
    return folder
