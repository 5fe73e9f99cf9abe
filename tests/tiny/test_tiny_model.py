"""The tiny model: made once, whole or not at all, the same bytes again, leaving the process as it was."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from sharelora.models.load import load_base, load_tokenizer
from sharelora.support.errors import UserError
from sharelora.support.files import sha256
from sharelora.tiny import cache, ensure_tiny
from sharelora.tiny.architectures import Recipe
from sharelora.tiny.build import learning_rate

STEPS = 2


@pytest.fixture(scope="module")
def sketch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_tiny("llama", tmp_path_factory.mktemp("cache"), steps=STEPS, progress=lambda done, total: None)


def quiet(done: int, total: int) -> None:
    """No progress line."""


def test_it_is_a_model_folder(sketch: Path) -> None:
    model, tokenizer = load_base(str(sketch)), load_tokenizer(str(sketch))
    assert model.config.model_type == "llama" and model.config.num_key_value_heads < model.config.num_attention_heads
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer("The fox")["input_ids"][0] == tokenizer.bos_token_id == model.config.bos_token_id
    with torch.no_grad():
        assert model(torch.tensor([tokenizer("The fox is red.")["input_ids"]])).logits.isfinite().all()


def test_the_answer_letter_is_one_token_with_and_without_a_space(sketch: Path) -> None:
    tokenizer = load_tokenizer(str(sketch))
    for letter in "ABCD":
        alone, after = (tokenizer.encode(text, add_special_tokens=False) for text in (letter, f"Answer: {letter}"))
        assert alone == after[-1:]


def test_the_same_seed_gives_the_same_bytes(sketch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(99)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    again = ensure_tiny("llama", tmp_path, steps=STEPS, progress=quiet)
    torch.set_num_threads(threads)
    assert again.name == sketch.name
    assert {name: sha256(again / name) for name in cache.MODEL_FILES} == {
        name: sha256(sketch / name) for name in cache.MODEL_FILES
    }


def test_another_seed_or_length_is_another_model(sketch: Path, tmp_path: Path) -> None:
    other = ensure_tiny("llama", tmp_path, steps=STEPS, seed=1, progress=quiet)
    longer = ensure_tiny("llama", tmp_path, steps=STEPS + 1, progress=quiet)
    assert len({sketch.name, other.name, longer.name}) == 3
    assert sha256(other / "model.safetensors") != sha256(sketch / "model.safetensors")


def test_making_it_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = (torch.get_rng_state(), torch.get_num_threads(), torch.get_float32_matmul_precision())
    ensure_tiny("llama", tmp_path, steps=1, progress=quiet)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (torch.get_num_threads(), torch.get_float32_matmul_precision())
    assert not torch.are_deterministic_algorithms_enabled()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    made: list[Path] = []

    def build(architecture: Any, recipe: Any, folder: Path, seed: int, progress: Any) -> None:
        made.append(folder)
        for name in cache.MODEL_FILES:
            (folder / name).write_text("")

    monkeypatch.setattr(cache, "build", build)
    return made


def test_it_is_made_once_even_if_several_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch)
    found: list[Path] = []
    askers = [threading.Thread(target=lambda: found.append(ensure_tiny("llama", tmp_path))) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len(made) == 1 and len(found) == 4 and len(set(found)) == 1


def test_an_interrupted_build_leaves_nothing_and_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(architecture: Any, recipe: Any, folder: Path, *rest: Any) -> None:
        (folder / "config.json").write_text("{")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "build", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ensure_tiny("llama", tmp_path)
    assert [path.name for path in (tmp_path / "tiny").iterdir() if path.is_dir()] == []
    made = counted(monkeypatch)
    folder = ensure_tiny("llama", tmp_path)
    (folder / "model.safetensors").unlink()
    assert ensure_tiny("llama", tmp_path) == folder and len(made) == 2


def test_the_environment_sets_steps_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(monkeypatch)
    monkeypatch.setenv(cache.CACHE, str(tmp_path))
    monkeypatch.setenv(cache.STEPS, "7")
    assert ensure_tiny() == ensure_tiny(steps=7) != ensure_tiny(steps=8)
    assert ensure_tiny().parent == tmp_path / "tiny"


@pytest.mark.parametrize("steps", ["0", "-1", "many"])
def test_a_bad_number_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: str) -> None:
    monkeypatch.setenv(cache.STEPS, steps)
    with pytest.raises(UserError, match="need a whole number of at least 1"):
        ensure_tiny(cache=tmp_path)


def test_an_unknown_kind_and_a_folder_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found tiny model opt; need one of llama"):
        ensure_tiny("opt", cache=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="set SHARELORA_CACHE"):
        ensure_tiny(cache=tmp_path / "file")


def test_the_learning_rate_rises_and_falls() -> None:
    recipe = Recipe(steps=100, warmup=10, learning_rate=1.0)
    rates = [learning_rate(recipe, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[30] == 1.0 and rates[-1] < 0.05
