"""Several adapters in one model: added, loaded, switched, mixed, disabled, deleted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from toy_models import QKV, adapted, bank, gradients, language_batch, llama, logits, shake, tokens, train

from sharelora import ShareLoraConfig, UserError

OTHER = {"r": 3, "share": "ab", "share_across": "both", "target_modules": QKV, "lora_alpha": 6}


def two() -> PeftModel:
    """A model with two adapters of different plans, ranks, scalings and modules."""
    model = adapted(llama(), share="a")
    model.add_adapter("second", ShareLoraConfig(**OTHER))
    return shake(model)


def alone(settings: dict[str, object], values: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of a model with one adapter of the given values."""
    model = adapted(llama(), **settings)
    with torch.no_grad():
        for name, value in bank(model).items():
            value.copy_(values[name])
    return logits(model)


def trainable(model: PeftModel) -> set[str]:
    """Names of the adapters whose matrices are trained; every matrix of an adapter must agree."""
    found = set()
    for name, matrices in model.base_model.lora_bank.items():
        flags = {value.requires_grad for value in matrices.values()}
        assert len(flags) == 1
        found |= {name} if flags.pop() else set()
    return found


def test_each_adapter_keeps_its_own_plan() -> None:
    model = two()
    first, second = (model.base_model.plans[name] for name in ("default", "second"))
    assert first.num_parameters != second.num_parameters
    assert bank(model, "second").keys() == second.matrices.keys()
    assert len({id(p) for p in model.base_model.lora_bank.parameters()}) == len(first.matrices) + len(second.matrices)


def test_switching_adapters_switches_values_and_gradients() -> None:
    model = two()
    for name, settings in (("default", {"share": "a"}), ("second", OTHER), ("default", {"share": "a"})):
        model.set_adapter(name)
        assert trainable(model) == {name}
        torch.testing.assert_close(logits(model), alone(settings, dict(bank(model, name))), rtol=1e-5, atol=1e-6)
        _, found = gradients(model, language_batch())
        assert found.keys() == {f"base_model.lora_bank.{name}.{matrix}" for matrix in bank(model, name)}


def test_two_active_adapters_add_up() -> None:
    model = two()
    layer = model.base_model.model.model.layers[1].self_attn.q_proj
    x = torch.randn(5, 32)
    parts = []
    for name in ("default", "second"):
        model.base_model.set_adapter(name)
        parts.append(layer(x) - layer.base_layer(x))
    model.base_model.set_adapter(["default", "second"])
    assert trainable(model) == {"default", "second"}
    torch.testing.assert_close(layer(x) - layer.base_layer(x), parts[0] + parts[1], rtol=1e-4, atol=1e-6)


def test_mixed_batches_give_each_row_its_adapter() -> None:
    model = two().eval()
    ids = tokens(3)
    base = logits(llama(), input_ids=ids)
    with torch.no_grad():
        mixed = model(input_ids=ids, adapter_names=["second", "__base__", "default"]).logits
    torch.testing.assert_close(mixed[1], base[1], rtol=1e-5, atol=1e-6)
    for row, name in ((0, "second"), (2, "default")):
        model.set_adapter(name)
        torch.testing.assert_close(mixed[row], logits(model, input_ids=ids)[row], rtol=1e-4, atol=1e-5)
    assert (mixed[0] - base[0]).abs().max() > 1e-3


def test_disabling_gives_the_base_and_enabling_gives_it_back() -> None:
    model = two()
    before = logits(model)
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), logits(llama()), rtol=0, atol=0)
    assert torch.equal(logits(model), before) and trainable(model) == {"default"}


def test_deleting_takes_the_bank_along() -> None:
    model = two()
    model.set_adapter("second")
    expected = logits(model)
    model.delete_adapter("default")
    assert list(model.base_model.lora_bank) == list(model.base_model.plans) == list(model.peft_config) == ["second"]
    assert torch.equal(logits(model), expected)
    assert not [name for name, _ in model.named_parameters() if "default" in name]
    model.add_adapter("default", ShareLoraConfig(r=2, share="b", target_modules=["v_proj"]))
    model.set_adapter("default")
    assert trainable(model) == {"default"} and len(train(model, language_batch(), 2)) == 2


def test_deleting_the_active_adapter_activates_the_other() -> None:
    model = two()
    with pytest.warns(UserWarning, match="Setting active adapter to second"):
        model.delete_adapter("default")
    assert model.active_adapters == ["second"] and trainable(model) == {"second"}


def test_adding_an_adapter_thaws_nothing() -> None:
    model = adapted(llama(), share="a", inference_mode=True)
    assert trainable(model) == set()
    model.add_adapter("second", ShareLoraConfig(**OTHER))
    assert trainable(model) == set()
    model.set_adapter("second")
    assert trainable(model) == {"second"}
    model.add_adapter("third", ShareLoraConfig(r=2, share="a", target_modules=["q_proj"]))
    assert trainable(model) == {"second"} and model.active_adapters == ["second"]


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_adapters_load_beside_each_other(tmp_path: Path, low_cpu_mem_usage: bool) -> None:
    model = two()
    expected = {}
    for name in ("default", "second"):
        model.set_adapter(name)
        expected[name] = logits(model)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(llama(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage, is_trainable=True)
    again.load_adapter(tmp_path / "second", "second", low_cpu_mem_usage=low_cpu_mem_usage)
    again.load_adapter(tmp_path / "second", "copy", is_trainable=True, low_cpu_mem_usage=low_cpu_mem_usage)
    assert trainable(again) == {"default", "copy"}
    for name, wanted in (("default", "default"), ("second", "second"), ("copy", "second")):
        again.set_adapter(name, inference_mode=name == "second")
        assert again.base_model.plans[name].hash == model.base_model.plans[wanted].hash
        assert {value.device.type for value in bank(again, name).values()} == {"cpu"}
        assert torch.equal(logits(again), expected[wanted])
        assert trainable(again) == ({name} if name != "second" else set())
    layers = again.base_model.model.model.layers
    assert layers[0].self_attn.k_proj.lora_A["copy"].weight is layers[2].self_attn.q_proj.lora_A["copy"].weight


def test_a_refused_adapter_leaves_the_model_as_it_was() -> None:
    model = shake(adapted(llama(), share="a"))
    before = logits(model)
    with pytest.raises(UserError, match="layers"):
        model.add_adapter("second", ShareLoraConfig(r=2, target_modules=["q_proj"], share_groups=[[0, 9]]))
    assert torch.equal(logits(model), before) and list(model.peft_config) == list(model.base_model.plans) == ["default"]
    assert list(model.base_model.lora_bank) == ["default"]
    model.add_adapter("second", ShareLoraConfig(r=2, target_modules=["q_proj"], share_groups=[[0, 2]]))


def test_a_refused_first_adapter_leaves_the_base_as_it_was() -> None:
    base = llama()
    before = logits(base)
    with pytest.raises(UserError):
        adapted(base, target_modules=["q_proj", "nothing"])
    assert torch.equal(logits(base), before) and all(value.requires_grad for value in base.parameters())
    adapted(base)


def test_lora_and_sharelora_do_not_mix() -> None:
    with pytest.raises(ValueError, match="different"):
        adapted(llama()).add_adapter("plain", LoraConfig(r=2, target_modules=["q_proj"]))


def test_peft_reports_the_state_of_the_layers() -> None:
    model = two()
    model.set_adapter("second")
    status = model.get_model_status()
    assert status.active_adapters == ["second"] and status.available_adapters == ["default", "second"]
    assert status.requires_grad == {"default": False, "second": True}
    plan = model.base_model.plans["second"]
    assert status.trainable_params == plan.num_parameters
    assert get_peft_model(llama(), ShareLoraConfig(**OTHER)).get_nb_trainable_parameters()[0] == plan.num_parameters
