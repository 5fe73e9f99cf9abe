"""An exported adapter is a plain LoRA with which stock PEFT computes the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from saved_adapters import CASES, STOCK, saved
from torch import nn
from toy_models import logits, roberta, tokens

from sharelora.convert import export_lora


def stock(base: nn.Module, folder: Path) -> PeftModel:
    return PeftModel.from_pretrained(base, str(folder)).eval()


@pytest.mark.parametrize("case", CASES)
def test_stock_peft_computes_the_same_with_the_exported_adapter(tmp_path: Path, case: str) -> None:
    base, adapter, expected = saved(tmp_path, case)
    plain = type(CASES[case][0]()).from_pretrained(base)
    assert (logits(plain) - expected).abs().max() > 1e-3
    done = export_lora(adapter, tmp_path / "plain")
    config = json.loads((tmp_path / "plain" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", done.rank, done.rank)
    assert not (config["use_rslora"] or config["rank_pattern"] or config["alpha_pattern"])
    assert not {"share", "plan", "enable_lora", "trained_on", "weights_sha256", "versions"} & set(config)
    torch.testing.assert_close(logits(stock(plain, tmp_path / "plain")), expected, rtol=1e-5, atol=1e-6)


def test_every_exported_module_has_one_a_and_one_b_of_one_rank(tmp_path: Path) -> None:
    _, adapter, _ = saved(tmp_path, "ranks")
    done = export_lora(adapter, tmp_path / "plain")
    shapes = {name: tensor.shape for name, tensor in load_file(tmp_path / "plain/adapter_model.safetensors").items()}
    assert len(shapes) == 2 * done.modules == 12
    assert all(name.startswith("base_model.model.model.layers.") for name in shapes)
    assert {shape[0] for name, shape in shapes.items() if name.endswith("lora_A.weight")} == {4} == {done.rank}
    assert {shape[1] for name, shape in shapes.items() if name.endswith("lora_B.weight")} == {4}
    assert sum(shape.numel() for shape in shapes.values()) == done.elements


@pytest.mark.slow
def test_a_process_without_this_library_reads_the_export(tmp_path: Path) -> None:
    base, adapter, expected = saved(tmp_path, "thirds")
    export_lora(adapter, tmp_path / "plain")
    torch.save(tokens(), tmp_path / "tokens.pt")
    files = [base, tmp_path / "plain", "GPT2LMHeadModel", tmp_path / "tokens.pt", tmp_path / "logits.pt"]
    done = subprocess.run([sys.executable, "-c", STOCK, *map(str, files)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected, rtol=1e-5, atol=1e-6)


def test_the_head_travels_with_the_export(tmp_path: Path) -> None:
    _, adapter, expected = saved(tmp_path, "classifier")
    export_lora(adapter, tmp_path / "plain")
    fresh = roberta()
    nn.init.normal_(fresh.classifier.out_proj.weight)
    torch.testing.assert_close(logits(stock(fresh, tmp_path / "plain")), expected, rtol=1e-5, atol=1e-6)
