"""The layers of a model are found from what it repeats, and numbered so that groups of layers mean something."""

from __future__ import annotations

from typing import Any

import pytest
import transformers as t
from peft import LoraConfig, get_peft_model
from torch import nn
from toy_models import QKV, adapted, llama, logits, shake

from sharelora import ShareLoraConfig, SharingPlan, SharingRule, UserError, find_sites
from sharelora.plan.layers import Layers

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def stack(prefix: str, layers: int, kinds: tuple[str, ...] = ATTENTION) -> list[str]:
    return [f"{prefix}.{layer}.{kind}" for layer in range(layers) for kind in kinds]


def experts(layers: int) -> list[str]:
    inner = tuple(f"mlp.experts.{e}.{name}" for e in range(4) for name in ("w1", "w2", "w3"))
    return stack("model.layers", layers, (*ATTENTION, "mlp.gate", *inner))


UNET = [
    f"{block}.attentions.{a}.{name}"
    for block, depth in (("down_blocks.0", 1), ("down_blocks.1", 2), ("up_blocks.0", 2), ("up_blocks.1", 1))
    for a in range(2)
    for name in (
        *("proj_in", "proj_out"),
        *(
            f"transformer_blocks.{b}.{kind}"
            for b in range(depth)
            for kind in ("attn1.to_q", "attn1.to_k", "attn2.to_q", "attn2.to_k", "ff.net.2")
        ),
    )
] + [f"mid_block.attentions.0.transformer_blocks.{b}.attn1.to_q" for b in range(2)]
SWIN = [
    f"encoder.layers.{stage}.blocks.{block}.{kind}"
    for stage, depth in enumerate((2, 2, 6, 2))
    for block in range(depth)
    for kind in ("attention.self.query", "attention.self.key", "output.dense")
] + [f"encoder.layers.{stage}.downsample.reduction" for stage in range(3)]
T5 = [
    f"{side}.block.{n}.{kind}"
    for side, kinds in (
        ("encoder", ("layer.0.SelfAttention.q", "layer.1.DenseReluDense.wi")),
        ("decoder", ("layer.0.SelfAttention.q", "layer.1.EncDecAttention.q", "layer.2.DenseReluDense.wi")),
    )
    for n in range(2)
    for kind in kinds
]


@pytest.mark.parametrize(
    ("paths", "path", "expected"),
    [
        # As ever: the number of the outermost list.
        (stack("model.layers", 4), "model.layers.3.self_attn.q_proj", ("model.layers", 3, "self_attn.q_proj")),
        (stack("model.layers", 1), "model.layers.0.self_attn.q_proj", ("model.layers", 0, "self_attn.q_proj")),
        (T5, "decoder.block.1.layer.1.EncDecAttention.q", ("decoder.block", 1, "layer.1.EncDecAttention.q")),
        (experts(2), "model.layers.1.mlp.experts.3.w1", ("model.layers", 1, "mlp.experts.3.w1")),
        (experts(1), "model.layers.0.mlp.experts.3.w1", ("model.layers", 0, "mlp.experts.3.w1")),
        (
            ["albert.groups.0.layers.0.attention.query", "albert.groups.0.layers.0.ffn"],
            "albert.groups.0.layers.0.attention.query",
            ("albert.groups", 0, "layers.0.attention.query"),
        ),
        (
            stack("encoder.layer", 2, (*ATTENTION, *(f"ffn.{i}.dense" for i in range(3)))),
            "encoder.layer.1.ffn.2.dense",
            ("encoder.layer", 1, "ffn.2.dense"),
        ),
        (["model.embed", "heads.0"], "heads.0", ("", None, "heads.0")),
        (["0.linear"], "0.linear", ("", None, "0.linear")),
        # A model in a list, and two.
        (
            [*stack("models.0.layers", 8), "models.0.lm_head"],
            "models.0.layers.5.self_attn.q_proj",
            ("models.0.layers", 5, "self_attn.q_proj"),
        ),
        ([*stack("models.0.layers", 8), "models.0.lm_head"], "models.0.lm_head", ("models", 0, "lm_head")),
        (
            [*stack("encoders.0.layers", 4), *stack("encoders.1.layers", 4), "encoders.0.pooler", "encoders.1.pooler"],
            "encoders.1.layers.2.self_attn.q_proj",
            ("encoders.layers", 6, "self_attn.q_proj"),
        ),
        # Blocks of stages, counted through.
        (SWIN, "encoder.layers.0.blocks.1.attention.self.query", ("encoder.layers.blocks", 1, "attention.self.query")),
        (SWIN, "encoder.layers.2.blocks.0.output.dense", ("encoder.layers.blocks", 4, "output.dense")),
        (SWIN, "encoder.layers.3.blocks.1.output.dense", ("encoder.layers.blocks", 11, "output.dense")),
        (SWIN, "encoder.layers.1.downsample.reduction", ("encoder.layers", 1, "downsample.reduction")),
        (
            [f"encoder.block.{s}.{b}.{kind}" for s in range(2) for b in range(2) for kind in ATTENTION],
            "encoder.block.1.0.self_attn.q_proj",
            ("encoder.block", 2, "self_attn.q_proj"),
        ),
        (
            UNET,
            "down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q",
            ("down_blocks.attentions.transformer_blocks", 3, "attn1.to_q"),
        ),
        (UNET, "up_blocks.1.attentions.1.proj_in", ("up_blocks.attentions", 3, "proj_in")),
        (
            UNET,
            "mid_block.attentions.0.transformer_blocks.1.attn1.to_q",
            ("mid_block.attentions.0.transformer_blocks", 1, "attn1.to_q"),
        ),
    ],
)
def test_layers_of_known_structures(paths: list[str], path: str, expected: tuple[str, int | None, str]) -> None:
    assert Layers(paths).position(path) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("layers", ("encoder.layers", 2, "blocks.1.output.dense")),
        ("blocks", ("encoder.layers.2.blocks", 1, "output.dense")),
        (["layers", "blocks"], ("encoder.layers.blocks", 5, "output.dense")),
        ("encoder.layers", ("encoder.layers", 2, "blocks.1.output.dense")),
        ("(h|layers)", ("encoder.layers", 2, "blocks.1.output.dense")),
        ("h", ("", None, "encoder.layers.2.blocks.1.output.dense")),
    ],
)
def test_layers_can_be_named(pattern: Any, expected: tuple[str, int | None, str]) -> None:
    assert Layers(SWIN, pattern).position("encoder.layers.2.blocks.1.output.dense") == expected


def swin() -> t.SwinModel:
    return t.SwinModel(
        t.SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 2, 3], num_heads=[2, 2, 2], window_size=2)
    )


def test_a_swin_shares_where_shapes_allow() -> None:
    """Blocks of widths 8, 16 and 32: an A for each width and kind, and groups of blocks by their numbers."""
    plan = SharingPlan.build(find_sites(swin(), ["q_proj", "v_proj"]), SharingRule("a"), 4)
    assert sum(name.startswith("lora_A") for name in plan.matrices) == 3 * 2
    assert {len(users) for name, users in plan.users.items() if name.startswith("lora_A")} == {1, 2, 3}
    assert sorted({entry.site.layer for entry in plan.entries}) == [0, 1, 2, 3, 4, 5]
    assert {entry.site.kind for entry in plan.entries} == {"attention.q_proj", "attention.v_proj"}
    groups = SharingPlan.build(find_sites(swin(), ["q_proj"]), SharingRule("ab", groups=((1, 2), (3, 5))), 4)
    assert sum(len(users) == 2 for users in groups.users.values()) == 4


class Wrapped(nn.Module):
    """A model in a list."""

    def __init__(self, *models: nn.Module) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, **inputs: Any) -> Any:
        return self.models[0](**inputs)


def test_a_model_in_a_list_shares_as_without_it() -> None:
    alone = adapted(llama(), share="a").base_model.plans["default"]
    inside = adapted(Wrapped(llama()), share="a").base_model.plans["default"]
    assert inside.matrices == alone.matrices and inside.num_parameters == alone.num_parameters
    assert [(e.site.kind, e.site.layer, e.a, e.b) for e in inside.entries] == [
        (e.site.kind, e.site.layer, e.a, e.b) for e in alone.entries
    ]


def test_layers_pattern_of_a_configuration() -> None:
    base = Wrapped(llama(), llama())
    plan = adapted(base, share="a", layers_pattern="models").base_model.plans["default"]
    assert {entry.site.layer for entry in plan.entries} == {0, 1}
    assert {entry.site.kind for entry in plan.entries} == {
        f"model.layers.{i}.self_attn.{name}" for i in range(3) for name in ("q_proj", "v_proj")
    }
    flat = adapted(Wrapped(llama(), llama()), share="a").base_model.plans["default"]
    assert {entry.site.layer for entry in flat.entries} == set(range(6))
    assert sum(name.startswith("lora_A") for name in flat.matrices) == 2


def test_layers_pattern_selects_as_in_peft(tmp_path: Any) -> None:
    settings = {"target_modules": QKV, "layers_to_transform": [0, 2], "layers_pattern": "layers"}
    model, theirs = adapted(llama(), share="a", **settings), get_peft_model(llama(), LoraConfig(**settings))
    found = {path for path, module in theirs.base_model.model.named_modules() if hasattr(module, "lora_A")}
    assert model.base_model.plans["default"].by_path.keys() == found and len(found) == 6
    expected = logits(shake(model))
    model.save_pretrained(tmp_path)
    from peft import PeftModel

    loaded = PeftModel.from_pretrained(llama(), tmp_path)
    assert loaded.peft_config["default"].layers_pattern == "layers"
    assert logits(loaded).equal(expected)


def test_a_pattern_that_is_no_list_is_refused() -> None:
    with pytest.raises(UserError, match="layers_pattern blocks is no list of modules in the model"):
        adapted(llama(), layers_pattern=["blocks"])
    assert ShareLoraConfig(target_modules=["q_proj"], layers_pattern="layers").layers_pattern == "layers"
