"""What sharing means: one parameter, the sum of the gradients, and otherwise LoRA."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from toy_models import QKV, adapted, bank, gradients, language_batch, llama, logits, shake, train

from sharelora import ShareLoraConfig

MODES = [
    {"share": "none"},
    {"share": "a"},
    {"share": "b"},
    {"share": "ab"},
    {"share": "a", "share_across": "modules", "target_modules": QKV},
    {"share": "ab", "share_across": "both", "target_modules": "all-linear"},
    {"share": "a", "share_groups": [[0, 2]], "share_modules": ["q_proj"]},
]


def peft_lora(base: nn.Module, seed: int = 0, **settings: object) -> PeftModel:
    torch.manual_seed(seed)
    return get_peft_model(base, LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], **settings}))


def copy_weights(ours: PeftModel, theirs: PeftModel) -> None:
    """Give every layer of a PEFT LoRA the matrices that ours uses there."""
    for entry in ours.base_model.plans["default"].entries:
        layer = theirs.base_model.model.get_submodule(entry.site.path)
        for slot, name in ((layer.lora_A, entry.a), (layer.lora_B, entry.b)):
            slot["default"].weight.data = bank(ours)[name].data.clone()


def tie(theirs: PeftModel, like: PeftModel) -> None:
    """Tie a PEFT LoRA as the authors do: by assigning one Parameter to several layers."""
    parameters = {name: nn.Parameter(value.detach().clone()) for name, value in bank(like).items()}
    for entry in like.base_model.plans["default"].entries:
        layer = theirs.base_model.model.get_submodule(entry.site.path)
        layer.lora_A["default"].weight, layer.lora_B["default"].weight = parameters[entry.a], parameters[entry.b]


def by_site(model: PeftModel, found: dict[str, torch.Tensor]) -> dict[tuple[str, str], torch.Tensor]:
    """Rename gradients of a PEFT LoRA to (site, side)."""
    prefix = "base_model.model."
    return {
        (name.removeprefix(prefix).split(".lora_")[0], name.split(".lora_")[1][0]): value
        for name, value in found.items()
    }


@pytest.mark.parametrize("settings", MODES, ids=str)
def test_every_matrix_is_one_parameter_of_the_bank(settings: dict[str, object]) -> None:
    model = adapted(llama(), **settings)
    plan = model.base_model.plans["default"]
    assert {name: tuple(value.shape) for name, value in bank(model).items()} == dict(plan.matrices)
    trainable = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trainable == {f"base_model.lora_bank.default.{name}" for name in plan.matrices}
    assert model.get_nb_trainable_parameters()[0] == plan.num_parameters
    for entry in plan.entries:
        layer = model.base_model.model.get_submodule(entry.site.path)
        assert layer.lora_A["default"].weight is bank(model)[entry.a]
        assert layer.lora_B["default"].weight is bank(model)[entry.b]
        assert not [name for name, _ in layer.named_parameters() if "lora" in name]


@pytest.mark.parametrize("settings", MODES, ids=str)
def test_values_and_gradients_are_those_of_untied_lora_summed(settings: dict[str, object]) -> None:
    ours = shake(adapted(llama(), **settings))
    theirs = peft_lora(llama(), target_modules=settings.get("target_modules", ["q_proj", "v_proj"]))
    copy_weights(ours, theirs)
    batch = language_batch()
    (loss, mine), (expected, untied) = gradients(ours, batch), gradients(theirs, batch)
    torch.testing.assert_close(loss, expected)
    summed = {name: torch.zeros(shape) for name, shape in ours.base_model.plans["default"].matrices.items()}
    parts = by_site(theirs, untied)
    for entry in ours.base_model.plans["default"].entries:
        summed[entry.a] += parts[entry.site.path, "A"]
        summed[entry.b] += parts[entry.site.path, "B"]
    assert mine.keys() == {f"base_model.lora_bank.default.{name}" for name in summed}
    for name, value in summed.items():
        torch.testing.assert_close(mine[f"base_model.lora_bank.default.{name}"], value, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True, "lora_alpha": 3}, {"init_lora_weights": "gaussian"}])
def test_share_none_is_peft_lora_from_the_first_value_on(settings: dict[str, object]) -> None:
    ours, theirs = adapted(llama(), share="none", **settings), peft_lora(llama(), **settings)
    for entry in ours.base_model.plans["default"].entries:
        layer = theirs.base_model.model.get_submodule(entry.site.path)
        assert torch.equal(bank(ours)[entry.a], layer.lora_A["default"].weight)
        assert torch.equal(bank(ours)[entry.b], layer.lora_B["default"].weight)
    batch = language_batch()
    assert train(ours, batch, 20) == pytest.approx(train(theirs, batch, 20), abs=1e-6)


def test_the_first_user_of_a_matrix_gives_its_initial_value() -> None:
    ours, theirs = adapted(llama(), share="ab"), peft_lora(llama())
    first = theirs.base_model.model.model.layers[0].self_attn.q_proj.lora_A["default"].weight
    assert torch.equal(bank(ours)["lora_A/self_attn/q_proj/*/4x32"], first)


def test_50_steps_of_share_a_are_50_steps_of_tied_lora() -> None:
    ours, theirs = adapted(llama(), share="a"), peft_lora(llama())
    tie(theirs, ours)
    batch = language_batch()
    losses = train(ours, batch, 50, rate=3e-3)
    assert losses == pytest.approx(train(theirs, batch, 50, rate=3e-3), abs=1e-6)
    assert losses[-1] < losses[0] - 0.3
    for entry in ours.base_model.plans["default"].entries:
        layer = theirs.base_model.model.get_submodule(entry.site.path)
        torch.testing.assert_close(bank(ours)[entry.a].data, layer.lora_A["default"].weight.data, rtol=0, atol=1e-5)
        torch.testing.assert_close(bank(ours)[entry.b].data, layer.lora_B["default"].weight.data, rtol=0, atol=1e-5)


def test_a_new_adapter_changes_nothing() -> None:
    base = llama()
    plain = logits(base)
    torch.testing.assert_close(logits(adapted(base, share="ab")), plain, rtol=0, atol=1e-6)


def test_adapting_does_not_depend_on_the_callers_object() -> None:
    config = ShareLoraConfig(r=4, share="a", target_modules=QKV)
    before = copy.deepcopy(config.to_dict())
    first, second = get_peft_model(llama(2), config), get_peft_model(llama(4), config)
    assert len(first.base_model.plans["default"].entries) == 6
    assert len(second.base_model.plans["default"].entries) == 12
    changed = {k for k, v in config.to_dict().items() if v != before[k]}
    filled_in = {"plan", "trained_on", "base_model_type"}
    assert changed <= {"base_model_name_or_path", "inference_mode", "peft_version", "task_type", *filled_in}


def test_dropout_is_drawn_in_training_only() -> None:
    model = shake(adapted(llama(), share="a", target_modules=QKV, lora_dropout=0.5))
    batch = language_batch()
    model.eval()
    still = model(**batch).loss
    assert torch.equal(model(**batch).loss, still)
    model.train()
    seen = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        seen.append(model(**batch).loss.item())
    assert seen[0] == seen[1] != seen[2] and seen[0] != still.item()
