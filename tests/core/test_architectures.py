"""Known models are built from shapes alone, quickly, and unknown ones are refused with the nearest names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sharelora.models.known import ALIASES, SHAPES, known_name, meta_model, model_config
from sharelora.support.errors import UserError

# Parameters of the published checkpoints, counted by their safetensors files (heads of classifiers excluded).
PUBLISHED = {
    "llama-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "tinyllama-1.1b": 1_100_048_384,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_known_shapes_have_the_published_number_of_parameters(name: str) -> None:
    model = meta_model(name)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name]


def test_every_known_name_has_shapes_and_builds_without_memory() -> None:
    assert set(ALIASES) == set(SHAPES)
    for name in SHAPES:
        assert {p.device.type for p in meta_model(name).parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("meta-llama/Meta-Llama-3-8B", "llama3-8b"),
        ("Meta-Llama-3-8B", "llama3-8b"),
        ("llama3_8b", "llama3-8b"),
        ("huggyllama/llama-7b", "llama-7b"),
        ("llama_7b", "llama-7b"),
        ("meta-llama/Llama-2-7b-hf", "llama2-7b"),
        ("FacebookAI/roberta-base", "roberta-base"),
        ("openai-community/gpt2", "gpt2"),
    ],
)
def test_aliases_mean_the_same_shapes(alias: str, name: str) -> None:
    assert known_name(alias) == name


def test_an_unknown_owner_is_not_taken_for_a_known_model() -> None:
    assert known_name("somebody/llama-7b") is None


def test_a_folder_wins_over_a_known_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gpt2"
    model_config("gpt2").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_layer": 2}))
    monkeypatch.chdir(tmp_path)
    assert model_config("gpt2").num_hidden_layers == 2
    assert len(meta_model(folder).transformer.h) == 2


def test_the_class_named_in_a_folder_is_built(tmp_path: Path) -> None:
    config = model_config("roberta-base")
    config.architectures = ["RobertaForMaskedLM"]
    config.save_pretrained(tmp_path)
    assert type(meta_model(tmp_path)).__name__ == "RobertaForMaskedLM"
    assert type(meta_model("roberta-base")).__name__ == "RobertaForSequenceClassification"


def test_an_unknown_model_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UserError, match=r"no model 'lama3-8b'.*nearest: llama3-8b"):
        meta_model("lama3-8b")


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no usable config"):
        meta_model(tmp_path)
