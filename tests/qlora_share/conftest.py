"""The entry point in this process: its exit code and what it says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from outcome import Command, Outcome

from sharelora.support.errors import run_main

TRAINING = Path(__file__).resolve().parent.parent / "training"
sys.path.append(str(TRAINING))
from small_llama import write_data, write_model  # noqa: E402


@pytest.fixture(scope="session")
def entry_point() -> ModuleType:
    """The script as a module."""
    file = TRAINING.parent.parent / "qlora_share" / "qlora_share.py"
    spec = importlib.util.spec_from_file_location("qlora_share_entry", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaMA of two layers with its tokenizer."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty Alpaca rows."""
    return write_data(tmp_path_factory.mktemp("data") / "rows.jsonl")


@pytest.fixture
def flags(model_folder: Path, data_file: Path, tmp_path: Path) -> dict[str, str]:
    """A short run."""
    return {
        "model_name_or_path": str(model_folder),
        "dataset": str(data_file),
        "output_dir": str(tmp_path / "out"),
        "bits": "32",
        "use_cpu": "true",
        "optim": "adamw_torch",
        "max_steps": "2",
        "logging_steps": "1",
        "save_steps": "2",
        "lora_r": "4",
        "per_device_train_batch_size": "4",
        "gradient_accumulation_steps": "1",
        "gradient_checkpointing": "false",
        "source_max_len": "160",
        "target_max_len": "32",
        "eval_dataset_size": "8",
        "max_new_tokens": "4",
    }


@pytest.fixture
def command(
    entry_point: ModuleType,
    flags: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Command:
    """Run the entry point with changed flags; None leaves one out."""
    monkeypatch.setattr("sharelora.reporting.history._plot", lambda rows: b"no plot in this test")

    def run(**changes: str | None) -> Outcome:
        chosen = {name: value for name, value in {**flags, **changes}.items() if value is not None}
        words = [word for name, value in chosen.items() for word in (f"--{name}", value) if word]
        monkeypatch.setattr(sys, "argv", ["qlora_share.py", *words])
        caplog.clear()
        with pytest.raises(SystemExit) as ended:
            run_main(entry_point.main)
        code = ended.value.code
        return Outcome(code if isinstance(code, int) else 1, caplog.text, capsys.readouterr().err)

    return run
