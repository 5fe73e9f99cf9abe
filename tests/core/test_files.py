"""Adapter folders: every matrix once, back as it was, and nothing else is taken for one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from toy_models import QKV, adapted, bank, gpt2, language_batch, llama, logits, shake, train

from sharelora import SharingPlan, UserError
from sharelora.support.files import sha256
from sharelora.tuner.config import CONFIG_FILE, WEIGHTS_FILE

MODES: list[dict[str, Any]] = [
    {"share": "none"},
    {"share": "a"},
    {"share": "b"},
    {"share": "ab"},
    {"share": "a", "share_across": "modules", "target_modules": QKV},
    {"share": "ab", "share_across": "both", "target_modules": "all-linear"},
    {"share": "a", "share_groups": "odd_even", "share_modules": ["q_proj"], "lora_alpha": 3, "use_rslora": True},
    {"share": "ab", "share_groups": [[0, 2]], "rank_pattern": {"v_proj": 2}, "layers_to_transform": [0, 2]},
    {"share_plan": {"sites": [{"path": "*", "a": "x", "b": "{kind}"}]}},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter of a three-layer llama, with a plan."""
    path = tmp_path / "adapter"
    shake(adapted(llama(), share="a")).save_pretrained(path)
    return path


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / WEIGHTS_FILE)


def load(folder: Path, base: torch.nn.Module | None = None) -> PeftModel:
    return PeftModel.from_pretrained(base or llama(), folder)


def change_config(folder: Path, **fields: Any) -> None:
    file = folder / CONFIG_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize("settings", MODES, ids=str)
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_a_file_holds_what_is_trained_and_nothing_twice(
    tmp_path: Path, settings: dict[str, Any], low_cpu_mem_usage: bool
) -> None:
    model = shake(adapted(llama(), **settings))
    model.save_pretrained(tmp_path)
    plan, stored = model.base_model.plans["default"], weights(tmp_path)
    assert stored.keys() == {f"base_model.lora_bank.{name}" for name in plan.matrices}
    assert sum(value.numel() for value in stored.values()) == model.get_nb_trainable_parameters()[0]
    assert {file.name for file in tmp_path.iterdir()} <= {CONFIG_FILE, WEIGHTS_FILE, "README.md"}
    again = PeftModel.from_pretrained(llama(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert again.base_model.plans["default"].hash == plan.hash
    assert torch.equal(logits(again), logits(model))
    again.save_pretrained(tmp_path / "again")
    assert sha256(tmp_path / "again" / WEIGHTS_FILE) == sha256(tmp_path / WEIGHTS_FILE)


def test_slices_of_a_fused_module_are_saved_apart(tmp_path: Path) -> None:
    settings = {"target_modules": ["c_attn"], "enable_lora": {"c_attn": [True, False, True]}, "share": "a"}
    model = shake(adapted(gpt2(), **settings))
    model.save_pretrained(tmp_path)
    assert {tuple(value.shape) for value in weights(tmp_path).values()} == {(4, 32), (32, 4)}
    for low in (False, True):
        again = PeftModel.from_pretrained(gpt2(), tmp_path, low_cpu_mem_usage=low)
        assert torch.equal(logits(again), logits(model))


def test_the_config_says_what_the_adapter_is(folder: Path) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert config["peft_type"] == "SHARELORA" and config["share"] == "a" and config["trained_on"] == "fp32"
    assert config["weights_sha256"] == sha256(folder / WEIGHTS_FILE)
    assert SharingPlan.from_json(config["plan"]).num_parameters == sum(v.numel() for v in weights(folder).values())
    assert set(config["versions"]) == {"sharelora", "peft", "transformers", "torch"}
    assert PeftConfig.from_pretrained(str(folder)).plan == config["plan"]


def test_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    model = adapted(llama(), share="ab")
    train(model, language_batch(), 5)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(llama(), tmp_path, is_trainable=True)
    frozen = load(tmp_path)
    assert not [name for name, value in frozen.named_parameters() if value.requires_grad]
    assert train(again, language_batch(), 5) == train(model, language_batch(), 5)
    for name, value in bank(model).items():
        assert torch.equal(bank(again)[name], value)


def test_loading_into_an_existing_adapter_keeps_its_parameters(folder: Path) -> None:
    """As trainers do when they resume or go back to the best checkpoint: the optimizer holds these parameters."""
    model = adapted(llama(), share="a")
    before = dict(bank(model))
    model.load_adapter(folder, "default", is_trainable=True)
    assert torch.equal(logits(model), logits(load(folder)))
    assert all(bank(model)[name] is value and value.requires_grad for name, value in before.items())
    other = adapted(llama(), share="b")
    with pytest.raises(UserError, match="does not hold the matrices of its plan"):
        other.load_adapter(folder, "default", is_trainable=True)


def test_saving_over_an_older_adapter(folder: Path) -> None:
    adapted(llama(), share="none").save_pretrained(folder)
    assert load(folder).base_model.plans["default"].num_parameters == sum(v.numel() for v in weights(folder).values())


@pytest.mark.parametrize("position", [0, 100, -1])
def test_a_flipped_bit_is_noticed(folder: Path, position: int) -> None:
    file = folder / WEIGHTS_FILE
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)
    with pytest.raises(
        UserError, match=r"is not the file that was saved .* truncated or altered; copy the folder again"
    ):
        load(folder)


@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_a_truncated_file_is_noticed(folder: Path, kept: int) -> None:
    file = folder / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match="truncated or altered"):
        load(folder)


def test_missing_weights_are_noticed(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(UserError, match=f"has no {WEIGHTS_FILE}"):
        load(folder)
    torch.save({}, folder / "adapter_model.bin")
    with pytest.raises(UserError, match=f"has no {WEIGHTS_FILE}"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("base_model.lora_bank.lora_A/self_attn/q_proj/*/4x32"), r"found none, need \(4, 32\)"),
        (lambda w: w.update({"base_model.lora_bank.lora_A/x/4x4": torch.ones(4, 4)}), r"found \(4, 4\), need none"),
        (
            lambda w: w.update({"base_model.lora_bank.lora_A/self_attn/q_proj/*/4x32": torch.ones(4, 31)}),
            r"q_proj/\*/4x32: found \(4, 31\), need \(4, 32\)",
        ),
        (lambda w: w.clear(), "8 differ"),
    ],
)
def test_names_and_shapes_are_checked_even_without_a_checksum(folder: Path, change: Any, message: str) -> None:
    changed = weights(folder)
    change(changed)
    save_file(changed, folder / WEIGHTS_FILE)
    for plan in (json.loads((folder / CONFIG_FILE).read_text())["plan"], None):
        change_config(folder, weights_sha256=None, plan=plan)
        with pytest.raises(UserError, match=message):
            load(folder)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (lambda: llama(4), "made for another model: .* first model.layers.3.self_attn"),
        (lambda: llama(2), "made for another model"),
        (lambda: llama(hidden=64), r"made for another model: .* \(32 to 32\); load its own base model"),
        (lambda: llama(num_key_value_heads=4), r"v_proj \(32 to 16\)"),
        (gpt2, "q_proj, v_proj match nothing in the model"),
    ],
)
def test_another_model_is_noticed(folder: Path, base: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(folder, base())


def test_a_changed_rule_is_noticed(folder: Path) -> None:
    change_config(folder, share="b")
    with pytest.raises(UserError, match="differ in"):
        load(folder)


def test_a_damaged_plan_is_noticed(folder: Path) -> None:
    for plan, message in (({"format": "x"}, "plan has format 'x'"), ([], "has a list as plan; need an object")):
        change_config(folder, plan=plan)
        with pytest.raises(UserError, match=message):
            load(folder)


def test_the_weights_of_another_adapter_are_noticed(folder: Path, tmp_path: Path) -> None:
    shake(adapted(llama(), share="a"), seed=9).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / WEIGHTS_FILE, folder)
    with pytest.raises(UserError, match="is not the file that was saved"):
        load(folder)


def test_a_lost_magnitude_of_dora_is_noticed(tmp_path: Path) -> None:
    shake(adapted(llama(), share="a", use_dora=True)).save_pretrained(tmp_path)
    kept = {name: value for name, value in weights(tmp_path).items() if "layers.1" not in name}
    save_file(kept, tmp_path / WEIGHTS_FILE)
    change_config(tmp_path, weights_sha256=None)
    with pytest.raises(UserError, match=r"layers\.1\.self_attn\.q_proj\.lora_magnitude_vector"):
        load(tmp_path)
