"""Adapters of every family of models: exported, loaded and merged, they compute the same."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, inputs
from peft import PeftWarning
from stock import prepare, read
from torch import Tensor
from toy_models import adapted, logits, shake

from sharelora import UserError
from sharelora.convert import export_lora, merge
from sharelora.models.adapter import load_adapter
from sharelora.tuner.sites import find_sites

# In these PEFT takes ordinary layers for experts of an older release of transformers.
TRANSLATED = ("qwen3-moe dense", "qwen3-next", "deepseek-v2", "deepseek-v3", "glm4-moe", "ernie4.5-moe")


def trained(family: str, folder: Path, **settings: Any) -> tuple[Any, dict[str, Tensor], Tensor]:
    """Save a base and an adapter with values of its own; return the model, its input and its logits."""
    model: Any = FAMILIES[family]()
    batch = inputs(model)
    model.save_pretrained(folder / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PeftWarning)  # that all linear layers are not all parameters
        targets = [site.path for site in find_sites(model)]
    wide = {"share": "a", "target_modules": targets, "lora_alpha": 6, **settings}
    model = shake(adapted(model, **wide))
    model.save_pretrained(str(folder / "adapter"))
    return model, batch, logits(model, **batch)


def read_back(tmp_path: Path, families: tuple[str, ...]) -> None:
    """Export an adapter of every family, and compare what PEFT computes with each in a process of its own."""
    folders, expected = [], {}
    for family in families:
        folder = tmp_path / family
        folder.mkdir()
        model, batch, expected[family] = trained(family, folder)
        export_lora(folder / "adapter", folder / "plain", base=folder / "base")
        config = json.loads((folder / "plain" / "adapter_config.json").read_text())
        assert bool(config.get("target_parameters")) == (family in TRANSLATED)
        folders.append(prepare(folder, model.get_base_model(), batch))
    for found, (family, logits_) in zip(read(*folders), expected.items(), strict=True):
        torch.testing.assert_close(found, logits_, rtol=1e-4, atol=1e-5, msg=family)


@pytest.mark.slow
def test_stock_peft_reads_exports_whose_names_it_translates(tmp_path: Path) -> None:
    read_back(tmp_path, ("deepseek-v3",))


@pytest.mark.slow
def test_stock_peft_reads_the_export_of_every_family(tmp_path: Path) -> None:
    read_back(tmp_path, tuple(FAMILIES))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_compact_and_the_merged_form_compute_the_same(tmp_path: Path, family: str) -> None:
    model, batch, expected = trained(family, tmp_path)
    base_class = type(model.get_base_model())
    fresh = base_class.from_pretrained(tmp_path / "base")
    assert (logits(fresh, **batch) - expected).abs().max() > 1e-2
    compact = load_adapter(fresh, tmp_path / "adapter")
    torch.testing.assert_close(logits(compact, **batch), expected, rtol=1e-5, atol=1e-6)
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    merged = base_class.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged, **batch), expected, rtol=1e-4, atol=1e-5)


def test_names_that_peft_translates_and_cannot_adapt_as_parameters_are_refused(tmp_path: Path) -> None:
    trained("deepseek-v3", tmp_path, use_dora=True)
    with pytest.raises(
        UserError, match=r"PEFT .* would read .* first model\.layers\.0\.mlp\.down_proj .*sharelora merge"
    ):
        export_lora(tmp_path / "adapter", tmp_path / "plain", base=tmp_path / "base")
    assert not list(tmp_path.glob("plain*")) and not list(tmp_path.glob(".*"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:target_modules names gate_proj without up_proj")
def test_one_of_two_fused_names_alone_is_read_too(tmp_path: Path) -> None:
    """PEFT refuses to load a LoRA on gate_proj without up_proj, although neither is an expert here."""
    model, batch, expected = trained("deepseek-v3", tmp_path, target_modules=["gate_proj", "q_b_proj"], share="none")
    export_lora(tmp_path / "adapter", tmp_path / "plain", base=tmp_path / "base")
    (found,) = read(prepare(tmp_path, model.get_base_model(), batch))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_without_the_base_an_export_that_needs_it_is_refused(tmp_path: Path) -> None:
    trained("deepseek-v3", tmp_path)
    with pytest.raises(UserError, match=r"deepseek_v3 model, .*config\.json.*give --base"):
        export_lora(tmp_path / "adapter", tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


def test_an_older_adapter_without_its_base_is_exported_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained("llama", tmp_path)
    export_lora(tmp_path / "adapter", tmp_path / "one")
    assert not caplog.records  # its type is known, and PEFT translates nothing for it
    file = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text())
    assert config.pop("base_model_type") == "llama"
    file.write_text(json.dumps(config))
    with caplog.at_level(logging.WARNING):
        export_lora(tmp_path / "adapter", tmp_path / "two")
    assert "was not read back" in caplog.text


def test_a_wrong_base_is_refused_for_an_export(tmp_path: Path) -> None:
    trained("llama", tmp_path)
    FAMILIES["gpt2"]().save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=r"another model: it has no model\.layers\.0"):
        export_lora(tmp_path / "adapter", tmp_path / "plain", base=tmp_path / "other")
