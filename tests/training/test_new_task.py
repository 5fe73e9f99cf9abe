"""The worked example of docs/new-task.md: a fifth task in one file."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).resolve().parent.parent / "nlu"))
from small_encoders import write_encoder

EXAMPLE = Path(__file__).resolve().parent.parent.parent / "docs" / "examples" / "token_classification.py"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example as a module."""
    monkeypatch.setattr("sharelora.reporting.history._plot", lambda rows: b"no plot in this test")
    spec = importlib.util.spec_from_file_location("token_classification", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "token_classification", module)
    spec.loader.exec_module(module)
    return module


def test_a_fifth_task_is_one_short_file() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 150


def test_it_trains_evaluates_and_leaves_what_every_task_leaves(example: ModuleType, tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "rows.jsonl"
    texts = [["the", animal, "sees", colour] for animal in ("dog", "cat") for colour in ("red", "dark")]
    rows = [{"words": text, "tags": ["O", "ANIMAL", "O", "COLOUR"]} for text in texts]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows * 4))
    words = f"--train_file {file} --eval_file {file}"
    words += f" --model_name_or_path {write_encoder(tmp_path / 'roberta')} --output_dir {out} --use_cpu --share a"
    words += " --max_steps 60 --learning_rate 1e-2 --per_device_train_batch_size 12 --eval_strategy steps"
    words += " --eval_steps 30 --save_steps 30 --lr_scheduler_type constant --lora_r 4 --max_length 32"
    session = example.run(example.COMMAND.parse(words.split()))
    names = {path.name for path in out.iterdir()}
    assert names >= {"adapter_model", "checkpoint-60", "completed", "loss.csv", "metrics.json", "result.json"}
    result = json.loads((out / "result.json").read_text())
    assert result["metrics"]["eval_accuracy"] > 0.9 and result["metrics"]["steps"] == 60
    assert result["plan"]["trainable"] < result["plan"]["unshared"]
    saved = load_file(out / "adapter_model" / "adapter_model.safetensors")
    assert any("classifier" in name for name in saved) and any("lora_bank" in name for name in saved)
    assert session.data.tags == ["ANIMAL", "COLOUR", "O"]

    again = example.run(example.COMMAND.parse(words.split()))
    assert again.metrics["eval_loss"] == pytest.approx(session.metrics["eval_loss"], rel=1e-5)
    assert (out / "result_evaluate.json").is_file()


def test_it_reads_rows_of_a_file(example: ModuleType, tmp_path: Path) -> None:
    rows = [{"words": ["Ann", "sings"], "tags": ["NAME", "O"]}, {"words": ["Rome"], "tags": ["PLACE", "O"]}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"rows.jsonl:2: found 2 tags; need one for each word"):
        example.read_rows(str(file))
