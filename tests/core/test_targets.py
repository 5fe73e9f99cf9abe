"""Which modules are adapted, and what a config may not say."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from toy_models import adapted, bank, gpt2, llama

from sharelora import ShareLoraConfig, UserError, find_sites
from sharelora.tuner.config import BEYOND_EXPORT, UNSUPPORTED, UNSUPPORTED_INIT

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapted_paths(**settings: Any) -> list[str]:
    model = adapted(llama(), **settings)
    plan = model.base_model.plans["default"]
    theirs = get_peft_model(
        llama(), LoraConfig(**{k: v for k, v in settings.items() if not k.startswith("share") and k != "enable_lora"})
    )
    found = {path for path, module in theirs.base_model.model.named_modules() if hasattr(module, "lora_A")}
    assert plan.by_path.keys() == found == set(model.base_model.targeted_module_names)
    return [path.removeprefix("model.layers.") for path in plan.by_path]


def test_all_linear_leaves_the_head_out() -> None:
    assert len(adapted_paths(target_modules="all-linear")) == 3 * 7
    sites = find_sites(llama(), "all-linear")
    assert sites == [e.site for e in adapted(llama(), target_modules="all-linear").base_model.plans["default"].entries]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"target_modules": r".*\.[02]\..*q_proj"}, ["0.self_attn.q_proj", "2.self_attn.q_proj"]),
        ({"target_modules": ["0.self_attn.q_proj"], "share": "none"}, ["0.self_attn.q_proj"]),
        ({"target_modules": ["q_proj"], "layers_to_transform": [0, 2]}, ["0.self_attn.q_proj", "2.self_attn.q_proj"]),
        ({"target_modules": ["q_proj"], "layers_to_transform": 2, "share": "none"}, ["2.self_attn.q_proj"]),
        ({"target_modules": ["mlp.up_proj"], "exclude_modules": ["1.mlp.up_proj"]}, ["0.mlp.up_proj", "2.mlp.up_proj"]),
        ({"target_modules": "all-linear", "exclude_modules": SEVEN[1:]}, [f"{i}.self_attn.q_proj" for i in range(3)]),
    ],
)
def test_targets_are_peft_targets(settings: dict[str, Any], expected: list[str]) -> None:
    assert adapted_paths(**settings) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"target_modules": ["q_proj", "w_proj"]},
            "^modules w_proj match nothing in the model; it has down_proj",
        ),
        ({"target_modules": "nothing.*"}, r"^modules nothing\.\* match nothing"),
        (
            {"target_modules": ["q_proj"], "layers_to_transform": [7]},
            "all of these are taken out again by layers_to_transform 7",
        ),
        (
            {"target_modules": ["input_layernorm"]},
            r"input_layernorm is LlamaRMSNorm: need a linear layer, an e",
        ),
        ({"target_modules": ["q_proj"], "enable_lora": {"c_attn": [True]}}, "enable_lora names 'c_attn'"),
        (
            {"target_modules": ["q_proj"], "enable_lora": {"q_proj": [True] * 3}},
            "a LlamaAttention takes its outputs apart",
        ),
        ({"share_modules": ["k_proj"]}, "share_modules names 'k_proj', which is not adapted"),
        ({"share_groups": [[0, 1], [2, 3]]}, r"layers \[3\]; the adapted layers are 0 to 2"),
        ({"rank_pattern": {"q_proj": 0}}, "rank 0 for model.layers.0.self_attn.q_proj"),
    ],
)
def test_what_the_model_lacks_is_refused(settings: dict[str, Any], message: str) -> None:
    base = llama()
    with pytest.raises(UserError, match=message):
        adapted(base, **settings)
    assert not [name for name, _ in base.named_parameters() if "lora" in name]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "rank r=0; a rank is a whole number of 1 or more"),
        ({"r": -2}, "rank r=-2"),
        ({"r": 2.5}, r"rank r=2\.5"),
        ({"lora_dropout": 1.0}, r"lora_dropout=1\.0; a dropout rate is at least 0 and below 1"),
        ({"lora_dropout": -0.1}, r"lora_dropout=-0\.1"),
        ({"share": "q"}, "share='q' is unknown; need one of none, a, b, ab"),
        ({"share_across": "layer"}, "did you mean 'layers'"),
        ({"share_groups": "odd"}, "odd_even"),
        ({"share_groups": [0, 1]}, r"need a list of lists of layers such as \[\[0, 1\]"),
        ({"share_groups": [[0, 1], [1, 2]]}, "groups must not overlap"),
        ({"share_modules": "q_proj"}, "need a list of names"),
        ({"share": "none", "share_groups": "odd_even"}, "shares nothing"),
        ({"share_plan": {"sites": []}, "share_groups": "odd_even"}, "share_plan names every matrix"),
        ({"share_plan": {"sites": []}, "rank_pattern": {"q_proj": 2}}, "share_plan names every matrix"),
        ({"use_dora": True, "enable_lora": {"c_attn": [True, False, True]}}, "DoRA rescales all outputs"),
        ({"lora_bias": True, "enable_lora": {"c_attn": [True, False, True]}}, "its bias is added to all outputs"),
    ],
)
def test_configs_that_contradict_themselves_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ShareLoraConfig(**{"target_modules": ["q_proj"], **settings})


VALUES: dict[str, Any] = {
    "layer_replication": [(0, 2)],
    "arrow_config": object(),
    "use_qalora": True,
}


@pytest.mark.parametrize("field", UNSUPPORTED)
def test_every_variant_that_breaks_sharing_is_refused_with_its_reason(field: str) -> None:
    with pytest.raises(UserError, match=f"{field} does not go with ShareLoRA: {UNSUPPORTED[field]}; leave it out"):
        ShareLoraConfig(target_modules=["q_proj"], **{field: VALUES[field]})


@pytest.mark.parametrize("init", UNSUPPORTED_INIT)
@pytest.mark.filterwarnings("ignore")
def test_initialisations_that_change_ranks_are_refused(init: str) -> None:
    with pytest.raises((UserError, ValueError), match=init):
        ShareLoraConfig(target_modules=["q_proj"], init_lora_weights=init)


def test_every_field_of_peft_is_accounted_for() -> None:
    """A field that PEFT adds needs a decision: it works with a bank, or it is refused."""
    works = {
        "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
        "inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out",
        "bias", "use_rslora", "modules_to_save", "init_lora_weights", "layers_to_transform", "layers_pattern",
        "rank_pattern", "alpha_pattern", "trainable_token_indices", "use_dora", "runtime_config",
    }  # fmt: skip
    idle = {
        "megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
        "qalora_group_size",
    }  # fmt: skip
    assert set(LoraConfig.__dataclass_fields__) == works | idle | set(UNSUPPORTED) | set(BEYOND_EXPORT)


def test_rank_and_alpha_patterns_are_those_of_peft() -> None:
    settings: dict[str, Any] = {
        "r": 4, "lora_alpha": 6, "target_modules": SEVEN[:3],
        "rank_pattern": {"k_proj": 3, r"layers\.1\.self_attn\.v_proj": 2},
        "alpha_pattern": {r"layers\.[02]\..*q_proj": 20},
    }  # fmt: skip
    ours, theirs = adapted(llama(), share="a", **settings), get_peft_model(llama(), LoraConfig(**settings))
    for path, module in theirs.base_model.model.named_modules():
        if hasattr(module, "lora_A"):
            layer = ours.base_model.model.get_submodule(path)
            assert layer.scaling == module.scaling and layer.r == module.r and layer.lora_alpha == module.lora_alpha
            assert layer.lora_A["default"].weight.shape == module.lora_A["default"].weight.shape
    # v of layer 1 has a rank of its own and so shares with nobody.
    users = {name: len(sites) for name, sites in ours.base_model.plans["default"].users.items() if "v_proj" in name}
    assert users["lora_A/self_attn/v_proj/*/4x32"] == 2 and users["lora_A/self_attn/v_proj/*/2x32"] == 1


def test_unmatched_rank_patterns_are_reported() -> None:
    with pytest.warns(RuntimeWarning, match="rank_pattern keys did not match"):
        adapted(llama(), rank_pattern={"w_proj": 3})


def test_two_stacks_of_layers_do_not_share() -> None:
    class Stacks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("encoder", "decoder"):
                blocks = [nn.ModuleDict({"q": nn.Linear(4, 4)}) for _ in range(2)]
                self.add_module(name, nn.ModuleDict({"block": nn.ModuleList(blocks)}))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in (*self.encoder["block"], *self.decoder["block"]):
                x = block["q"](x)
            return x

    model = adapted(Stacks(), target_modules=["q"], share="a")
    assert len([name for name in bank(model) if "lora_A" in name]) == 2
    assert model(torch.randn(3, 4)).shape == (3, 4)


def test_gpt2_needs_no_hint_that_its_weights_are_transposed() -> None:
    model = adapted(gpt2(), target_modules=["c_attn", "c_proj"], share="a")
    assert {value.shape for name, value in bank(model).items() if "c_attn" in name} == {(4, 32), (96, 4)}
    assert {name for name in bank(model) if "lora_A" in name and "c_proj" in name} == {
        "lora_A/attn/c_proj/*/4x32",
        "lora_A/mlp/c_proj/*/4x128",
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"exclude_modules": ["q_proj", "v_proj"]},
            "^target_modules q_proj, v_proj match modules .* out again by exclude_modules q_proj, v_proj;",
        ),
        ({"modules_to_save": ["q_proj", "v_proj"]}, "taken out again by modules_to_save q_proj, v_proj;"),
        (
            {"target_modules": ".*q_proj", "exclude_modules": ".*self_attn.*"},
            r"^target_modules \.\*q_proj match modules of the model, but all of these are taken out again by exclude",
        ),
        (
            {"exclude_modules": ["q_proj"], "modules_to_save": ["v_proj"]},
            "taken out again by exclude_modules q_proj and modules_to_save v_proj;",
        ),
    ],
)
def test_names_that_are_taken_out_again_are_not_called_unknown(settings: dict[str, Any], message: str) -> None:
    for make, error in ((ShareLoraConfig, UserError), (LoraConfig, ValueError)):
        with pytest.raises(error) as found:
            get_peft_model(llama(), make(**{"target_modules": ["q_proj", "v_proj"], **settings}))
        if make is ShareLoraConfig:
            assert re.search(message, str(found.value)) and "match nothing" not in str(found.value)


def test_what_is_partly_taken_out_is_no_error() -> None:
    assert adapted_paths(
        target_modules=["q_proj", "v_proj"], exclude_modules=["q_proj"], share="none", modules_to_save=["lm_head"]
    ) == [f"{i}.self_attn.v_proj" for i in range(3)]
    assert len(adapted_paths(target_modules=["q_proj", "v_proj"], modules_to_save=["v_proj"], share="none")) == 3


def test_a_second_adapter_is_told_the_names_of_the_base() -> None:
    model = adapted(llama(), target_modules=["q_proj", "k_proj"])
    with pytest.raises(UserError, match="modules qq match nothing in the model; it has down_proj") as error:
        model.add_adapter("second", ShareLoraConfig(r=2, target_modules=["qq"]))
    assert "base_layer" not in str(error.value) and "q_proj" in str(error.value)
    with pytest.raises(UserError, match="modules base_layer match nothing"):
        adapted(llama(), target_modules=["q_proj"]).add_adapter(
            "second", ShareLoraConfig(r=2, target_modules=["base_layer"])
        )
