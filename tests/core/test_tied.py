"""Models with one tensor under several names: an adapter that changes one name is written without changing another."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import TIED, inputs
from stock import prepare, read
from torch import Tensor, nn
from toy_models import adapted, logits

from sharelora.convert import export_lora, merge
from sharelora.models.adapter import load_adapter
from sharelora.tuner.tied import FLAG

pytestmark = pytest.mark.filterwarnings("ignore:.*tie_word_embeddings=True.*", "ignore:.*save_embedding_layers.*")
CHANGES = ("input trained", "output trained", "both trained", "output adapted", "tokens", "tokens of the output")
QUICK = ("llama", "bert", "t5")
# Families whose flag has a second meaning, and so stays.
KEPT = ("t5",)


def path_of(model: nn.Module, module: nn.Module | None) -> str:
    return next(path for path, found in model.named_modules() if found is module)


def settings(model: Any, change: str) -> dict[str, Any]:
    """The configuration of an adapter that changes one of the names."""
    first, last = (path_of(model, m) for m in (model.get_input_embeddings(), model.get_output_embeddings()))
    linear = next(
        path
        for path, m in reversed(list(model.named_modules()))
        if type(m).__name__ in ("Linear", "Conv1D") and path != last
    ).rpartition(".")[2]
    return {
        "input trained": {"target_modules": [linear], "modules_to_save": [first]},
        "output trained": {"target_modules": [linear], "modules_to_save": [last]},
        "both trained": {"target_modules": [linear], "modules_to_save": [first, last]},
        "output adapted": {"target_modules": [linear, last]},
        "tokens": {"target_modules": [linear], "trainable_token_indices": {first: [3, 5]}},
        "tokens of the output": {"target_modules": [linear], "trainable_token_indices": {last: [3, 5]}},
    }[change]


def trained(family: str, folder: Path, change: str) -> tuple[Any, dict[str, Tensor], Tensor]:
    """Save a base and an adapter with values of its own; return the model, its input and its logits."""
    model: Any = TIED[family]()
    batch = inputs(model) | ({"input_ids": torch.tensor([[3, 5, 7, 9, 3, 6]] * 2)})
    model.save_pretrained(folder / "base")
    model = adapted(model, share="none", lora_alpha=6, **settings(model, change))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, value in sorted(model.named_parameters()):
            if value.requires_grad:
                value.add_(torch.randn(value.shape, generator=generator) * 0.2)
    model.save_pretrained(str(folder / "adapter"))
    return model, batch, logits(model, **batch)


def ties(folder: Path) -> list[bool]:
    """Every value of the flag in a model's configuration, the nested ones included."""
    found = []

    def look(config: dict[str, Any]) -> None:
        found.extend([config[FLAG]] if FLAG in config else [])
        for nested in config.values():
            if isinstance(nested, dict):
                look(nested)

    look(json.loads((folder / "config.json").read_text()))
    return found


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in TIED]
)
def test_whatever_is_written_computes_the_same(tmp_path: Path, family: str, change: str) -> None:
    model, batch, expected = trained(family, tmp_path, change)
    base_class = type(model.get_base_model())
    fresh = base_class.from_pretrained(tmp_path / "base")
    assert (logits(fresh, **batch) - expected).abs().max() > 1e-3
    torch.testing.assert_close(logits(load_adapter(fresh, tmp_path / "adapter"), **batch), expected)
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    model.merge_and_unload().save_pretrained(tmp_path / "live")
    for folder in (tmp_path / "merged", tmp_path / "live"):
        merged = base_class.from_pretrained(folder)
        torch.testing.assert_close(logits(merged, **batch), expected, rtol=1e-4, atol=1e-5)
        untied = change != "tokens" and family not in KEPT
        assert not untied or (ties(folder) and not any(ties(folder)))


@pytest.mark.slow
def test_stock_peft_reads_every_export(tmp_path: Path) -> None:
    folders, expected = [], {}
    for name in itertools.product(TIED, CHANGES):
        folder = tmp_path / "-".join(name)
        folder.mkdir()
        model, batch, expected[name] = trained(name[0], folder, name[1])
        export_lora(folder / "adapter", folder / "plain", folder / "base")
        folders.append(prepare(folder, model.get_base_model(), batch))
    for found, (name, logits_) in zip(read(*folders), expected.items(), strict=True):
        torch.testing.assert_close(found, logits_, rtol=1e-4, atol=1e-5, msg=str(name))
