"""Experts are named in target_modules as the layers that they once were, as for LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, inputs
from peft import LoraConfig, PeftModel, PeftWarning, get_peft_model
from peft.tuners.lora import LoraLayer
from toy_models import adapted, bank, logits, shake

from sharelora import ShareLoraConfig, UserError
from sharelora.tuner.experts import LAYERS_ALONE, refuse_experts
from sharelora.tuner.sites import find_sites, layer_at

QWEN, MIXTRAL = ["q_proj", "gate_proj", "up_proj", "down_proj"], ["q_proj", "w1", "w2", "w3"]
STACKS = {"gate_up_proj", "down_proj"}


def paths(model: PeftModel, adapter: str = "default") -> list[str]:
    return list(model.base_model.plans[adapter].by_path)


def experts(model: PeftModel) -> set[str]:
    return {path for path in paths(model) if ".experts." in path}


# PEFT looks for modules alone among those that the patterns are for.
@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match")
@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("qwen3-moe", QWEN),
        ("qwen3-moe", [*QWEN, "gate"]),
        ("qwen3-moe", r".*\.(q_proj|gate_proj|up_proj|down_proj)"),
        ("qwen3-moe", r".*\.q_proj"),
        ("mixtral", MIXTRAL),
        ("olmoe", QWEN),
    ],
)
def test_the_same_is_adapted_as_with_lora(family: str, targets: Any, tmp_path: Path) -> None:
    ours = shake(adapted(FAMILIES[family](), share="none", target_modules=targets))
    theirs = get_peft_model(FAMILIES[family](), LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    config, like = ours.peft_config["default"], theirs.peft_config["default"]
    for field in ("target_modules", "rank_pattern", "alpha_pattern"):
        assert getattr(config, field) == getattr(like, field)
    assert set(config.target_parameters or ()) == set(like.target_parameters or ())
    layers = [layer for layer in theirs.modules() if isinstance(layer, LoraLayer)]
    assert len(layers) == len(paths(ours))
    for entry in ours.base_model.plans["default"].entries:
        layer = layer_at(theirs.base_model.model, entry.site.path)
        layer.lora_A["default"].weight.data.copy_(bank(ours)[entry.a])
        layer.lora_B["default"].weight.data.copy_(bank(ours)[entry.b])
    batch = inputs(ours)
    expected = logits(ours, **batch)
    torch.testing.assert_close(expected, logits(theirs, **batch))
    ours.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(FAMILIES[family](), tmp_path)
    torch.testing.assert_close(logits(again, **batch), expected)


def test_layers_share_their_experts() -> None:
    model = adapted(FAMILIES["qwen3-moe"](), share="a", target_modules=QWEN)
    plan = model.base_model.plans["default"]
    shared = [name for name in plan.matrices if name.startswith("lora_A") and "experts" in name]
    assert len(shared) == 2 and all(len(plan.users[name]) == 2 for name in shared)
    assert {entry.r for entry in plan.entries if "gate_up_proj" in entry.site.path} == {8}


def test_layers_of_the_same_names_are_adapted_besides() -> None:
    base = FAMILIES["qwen3-moe dense"]()
    config = ShareLoraConfig(r=4, share="none", target_modules=list(QWEN))
    model = get_peft_model(base, config)
    assert {"model.layers.0.mlp.up_proj", "model.layers.1.mlp.experts.gate_up_proj"} < set(paths(model))
    # The object serves for another model.
    assert config.target_modules == set(QWEN)
    assert paths(get_peft_model(FAMILIES["qwen3-moe dense"](), config)) == paths(model)
    model.add_adapter("second", ShareLoraConfig(r=2, share="none", target_modules=list(QWEN)))
    assert set(paths(model, "second")) == set(paths(model))


def test_whole_paths_and_layers_to_transform_mean_what_they_say() -> None:
    base = FAMILIES["qwen3-moe dense"]
    alone = [site.path for site in find_sites(base())]
    assert paths(adapted(base(), share="none", target_modules=alone)) == alone
    pattern = r"model\.layers\.0\.(self_attn\.q_proj|mlp\.up_proj)"
    assert paths(adapted(base(), share="none", target_modules=pattern)) == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.up_proj",
    ]
    base = FAMILIES["qwen3-moe"]
    first = adapted(base(), share="none", target_modules=QWEN, layers_to_transform=[0])
    assert experts(first) == {f"model.layers.0.mlp.experts.{name}" for name in STACKS}
    rest = adapted(base(), share="none", target_modules=["q_proj", "gate"])
    assert not experts(rest) and "model.layers.0.mlp.gate.weight" in paths(rest)


def test_all_linear_layers_are_layers_alone_and_a_warning_says_so() -> None:
    with pytest.warns(
        PeftWarning, match=r"gate_up_proj, down_proj, gate\.weight of this model are parameters, which stay as they"
    ):
        model = adapted(FAMILIES["qwen3-moe"](), share="none", target_modules="all-linear", lora_dropout=0.1)
    assert paths(model) and not [path for path in paths(model) if "mlp" in path]


@pytest.mark.parametrize("modules", [["q_proj", "up_proj"], r".*\.(q_proj|down_proj)", ["w1"]])
def test_commands_refuse_names_that_mean_experts(modules: Any) -> None:
    family = "mixtral" if modules == ["w1"] else "qwen3-moe dense"
    with pytest.raises(UserError, match=r"^found \w+, which means experts of this model: model\.layers\.\d\.mlp\.exp"):
        refuse_experts(FAMILIES[family](), modules)
    refuse_experts(FAMILIES[family](), ["q_proj", "model.layers.0.mlp.up_proj"])


def test_half_of_a_parameter_is_refused_unless_layers_have_the_name() -> None:
    config = ShareLoraConfig(r=4, target_modules=["q_proj", "up_proj"])
    with pytest.raises(
        UserError, match=r"\(peft: Cannot convert PEFT target\(s\) up_proj without also targeting gate_"
    ):
        get_peft_model(FAMILIES["qwen3-moe"](), config)
    assert config.target_modules == {"q_proj", "up_proj"} and config.target_parameters is None
    with pytest.warns(UserWarning, match="names up_proj without gate_proj, which experts of this model have in one"):
        model = adapted(FAMILIES["qwen3-moe dense"](), share="none", target_modules=["q_proj", "up_proj"])
    assert not experts(model) and "model.layers.0.mlp.up_proj" in paths(model)


@pytest.mark.parametrize("field", [*LAYERS_ALONE, "init_lora_weights"])
def test_what_a_parameter_cannot_have_is_refused(field: str) -> None:
    config = ShareLoraConfig(r=4, share="none", target_modules=list(QWEN))
    setattr(config, field, {"lora_dropout": 0.1, "init_lora_weights": "pissa"}.get(field, True))
    base = FAMILIES["qwen3-moe"]()
    with pytest.raises(UserError, match=rf"^{field}.* does not go with model\.layers\.0\.mlp\.experts\.gate_up_proj"):
        get_peft_model(base, config)
    assert config.target_modules == set(QWEN) and not any(isinstance(m, LoraLayer) for m in base.modules())
