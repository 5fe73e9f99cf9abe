"""A folder is looked into, and one that is damaged or in the way stops everything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from saved_adapters import contents, plain_lora, saved
from toy_models import adapted, llama

from sharelora import UserError
from sharelora.convert import export_lora, inspect, merge


def test_an_inspection_counts_and_measures(tmp_path: Path) -> None:
    _, adapter, _ = saved(tmp_path, "classifier")
    report = inspect(adapter)
    assert report.elements == report.plan.num_parameters and report.verified
    assert report.other_elements == 32 * 32 + 32 + 2 * 32 + 2
    assert report.bytes == (adapter / "adapter_model.safetensors").stat().st_size
    name, tensor = next(iter(load_file(adapter / "adapter_model.safetensors").items()))
    matrix = name.removeprefix("base_model.lora_bank.")
    assert report.norms[matrix] == pytest.approx(float(tensor.norm()))
    text = report.table()
    assert "checksum verified" in text and "lora_alpha: 6" in text and f"plan {report.plan.hash}" in text


def test_an_untrained_adapter_is_called_so(tmp_path: Path) -> None:
    adapted(llama(), share="a").save_pretrained(str(tmp_path / "adapter"))
    assert "6 matrices are all zero" in inspect(tmp_path / "adapter").table()


ACTIONS = {
    "inspect": lambda base, adapter, out: inspect(adapter),
    "export": lambda base, adapter, out: export_lora(adapter, out),
    "merge": lambda base, adapter, out: merge(base, adapter, out),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[:-4], "truncated or altered"),
        (lambda b: b[:-1] + bytes([b[-1] ^ 1]), "truncated or altered"),
    ],
)
def test_a_damaged_adapter_is_refused(tmp_path: Path, action: str, damage: Any, message: str) -> None:
    base, adapter, _ = saved(tmp_path, "a")
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=message):
        ACTIONS[action](base, adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_matrices_of_another_plan_are_refused(tmp_path: Path) -> None:
    _, adapter, _ = saved(tmp_path, "a")
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.lora_bank.lora_A/self_attn/q_proj/*/4x32"] = torch.zeros(4, 31)
    save_file(tensors, file)
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"weights_sha256": None}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    match = r"does not hold the matrices of its plan: 1 differ, first lora_A/self_attn/q_proj"
    with pytest.raises(UserError, match=match):
        inspect(adapter)


def test_plain_lora_is_pointed_to_the_import(tmp_path: Path) -> None:
    _, plain, _ = plain_lora(tmp_path, tie=False)
    with pytest.raises(UserError, match="`sharelora import` takes over plain LoRA"):
        export_lora(plain, tmp_path / "out")


def test_a_folder_in_the_way_is_left_alone(tmp_path: Path) -> None:
    base, adapter, _ = saved(tmp_path, "a")
    before = contents(tmp_path)
    for write in (
        lambda: export_lora(adapter, base),
        lambda: merge(base, adapter, base),
        lambda: export_lora(adapter, adapter),
    ):
        with pytest.raises(UserError, match="exists already and is not an empty folder"):
            write()
    assert contents(tmp_path) == before


def test_an_initialisation_that_rewrote_the_base_is_refused(tmp_path: Path) -> None:
    base = llama()
    base.save_pretrained(tmp_path / "base")
    adapted(base, share="none", init_lora_weights="pissa").save_pretrained(str(tmp_path / "adapter"))
    for write in (
        lambda: export_lora(tmp_path / "adapter", tmp_path / "out"),
        lambda: merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out"),
    ):
        with pytest.raises(UserError, match="initialised with 'pissa', which changed the base"):
            write()
