"""A run resumes with the base, tokenizer and rows that its checkpoint was trained on, or says which are others."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_llama import Job, write_data, write_model

from sharelora.support.errors import UserError
from sharelora.support.tensor_header import sampled_digest
from sharelora.trainer.checkpoints import INPUTS
from sharelora.training.inputs import require_same_inputs


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {f"layer {n}": torch.randn(40, 40, generator=generator) for n in range(4)}
    save_file({**tensors, "none": torch.zeros(0), "one": torch.ones(1)}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("index", [0, 20 * 40, 40 * 40 - 1])
def test_a_number_at_either_end_or_in_the_middle_of_any_tensor_counts(weights: Path, index: int) -> None:
    before, tensors = sampled_digest([weights]), load_file(weights)
    for name in [name for name in tensors if "layer" in name]:
        changed = {**tensors, name: tensors[name].clone()}
        changed[name].view(-1)[index] += 1
        save_file(changed, weights)
        assert sampled_digest([weights]) != before
    save_file(tensors, weights)
    assert sampled_digest([weights]) == before


def test_names_shapes_and_types_count_and_files_do_not(weights: Path, tmp_path: Path) -> None:
    before, tensors = sampled_digest([weights]), load_file(weights)
    parts = [dict(list(tensors.items())[:3]), dict(list(tensors.items())[3:])]
    for number, part in enumerate(parts):
        save_file(part, tmp_path / f"{number}.safetensors", metadata={"format": "pt"})
    assert sampled_digest([tmp_path / "1.safetensors", tmp_path / "0.safetensors"]) == before
    others = (
        {"x" if name == "one" else name: value for name, value in tensors.items()},
        {name: value.reshape(-1) for name, value in tensors.items()},
        {name: value.view(torch.int32) for name, value in tensors.items()},
        {name: value for name, value in tensors.items() if name != "none"},
    )
    for other in others:
        save_file(other, weights)
        assert sampled_digest([weights]) != before


def test_all_that_changed_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {"base weights": "a", "tokenizer": "b", "training rows": "40 (c)"}
    (tmp_path / INPUTS).write_text(json.dumps(before))
    require_same_inputs(tmp_path, before, anyway=False)
    require_same_inputs(tmp_path, {**before, "base configuration": "of a later version"}, anyway=False)
    assert not caplog.records
    now = {**before, "base weights": "x", "training rows": "39 (y)"}
    words = r"base weights a, now x; training rows 40 \(c\), now 39 \(y\)"
    with pytest.raises(UserError, match=f"{words}; need the same; .*--resume_anyway"):
        require_same_inputs(tmp_path, now, anyway=False)
    with caplog.at_level(logging.WARNING):
        require_same_inputs(tmp_path, now, anyway=True)
    assert "continuing with other inputs" in caplog.text and "base weights a, now x" in caplog.text


def test_a_checkpoint_of_an_earlier_version_resumes_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    require_same_inputs(tmp_path, {"tokenizer": "a"}, anyway=False)
    assert f"{tmp_path} has no {INPUTS}, so base, tokenizer and rows are not compared" in caplog.text


def test_something_else_in_its_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / INPUTS).write_text("[]")
    with pytest.raises(UserError, match="need an object"):
        require_same_inputs(tmp_path, {}, anyway=False)


def other_weights(model: Path, data: Path) -> None:
    write_model(model, seed=1)


def other_words(model: Path, data: Path) -> None:
    file = model / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": "{{ messages }}"}))


def fewer_rows(model: Path, data: Path) -> None:
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:39]))


def other_rows(model: Path, data: Path) -> None:
    data.write_text(data.read_text().replace("red", "big"))


CHANGES: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "weights": (other_weights, r"base weights \w{16}, now \w{16};"),
    "tokenizer": (other_words, r"tokenizer \w{16}, now \w{16};"),
    "fewer rows": (fewer_rows, r"training rows 32 \(\w{16}\), now 31 \(\w{16}\);"),
    "other rows": (other_rows, r"training rows 32 \(\w{16}\), now 32 \(\w{16}\);"),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_changed_inputs_are_refused(job: Job, tmp_path: Path, change: str) -> None:
    model, data = write_model(tmp_path / "own"), write_data(tmp_path / "own.jsonl")
    steps = (
        "--model_name_or_path",
        str(model),
        "--dataset",
        str(data),
        "--save_steps",
        "1",
        "--eval_dataset_size",
        "8",
    )
    job(*steps, "--max_steps", "1", "--max_train_samples", "99")
    (tmp_path / "out" / "completed").unlink()
    written = json.loads((tmp_path / "out" / "checkpoint-1" / INPUTS).read_text())
    assert written.keys() == {"base configuration", "base weights", "tokenizer", "training rows"}
    alter, words = CHANGES[change]
    alter(model, data)
    again = (*steps, "--max_train_samples", "99", "--max_steps", "1")
    with pytest.raises(UserError, match=f"other inputs of the same name: {words} need the same"):
        job(*again)
    job(*again, "--resume_anyway")
