"""Adapters combined into one: what PEFT makes of the same matrices as LoRAs, shared where that is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from toy_models import QV, adapted, bank, gpt2, language_batch, llama, logits, shake, train

from sharelora import ShareLoraConfig, UserError
from sharelora.tuner.sites import layer_at

KINDS = {
    "cat": {},
    "linear": {},
    "svd": {},
    "ties": {"density": 0.5},
    "magnitude_prune": {"density": 0.5},
    "ties_svd": {"density": 0.5, "majority_sign_method": "frequency"},
    "magnitude_prune_svd": {"density": 0.5},
}
WEIGHTS = [0.7, -1.3]


def pair(first: dict[str, Any], second: dict[str, Any] | None = None) -> PeftModel:
    """A model with two adapters of random values."""
    model = adapted(llama(), **first)
    model.add_adapter(
        "second", ShareLoraConfig(**{"r": 4, "target_modules": QV, **(first if second is None else second)})
    )
    return shake(model)


def as_loras(model: PeftModel) -> PeftModel:
    """PEFT's LoRAs with the matrices that the layers of a model have."""
    theirs: Any = None
    for name, config in model.peft_config.items():
        fields = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
        lora = LoraConfig(target_modules=set(config.target_modules), **{f: getattr(config, f) for f in fields})
        if theirs is None:
            theirs = get_peft_model(llama(), lora)
        else:
            theirs.add_adapter(name, lora)
        for path in model.base_model.plans[name].by_path:
            layer, other = (m.base_model.model.get_submodule(path) for m in (model, theirs))
            for side in ("lora_A", "lora_B"):
                getattr(other, side)[name].weight.data.copy_(getattr(layer, side)[name].weight)
    return theirs


def compare(model: PeftModel, kind: str, **options: Any) -> None:
    """Combine in both, and compare what every layer adds."""
    theirs = as_loras(model)
    for one in (model, theirs):
        one.add_weighted_adapter(["default", "second"], WEIGHTS, "mix", combination_type=kind, **options)
    for path in theirs.base_model.targeted_module_names:
        found, expected = (m.base_model.model.get_submodule(path).get_delta_weight("mix") for m in (model, theirs))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for one in (model, theirs):
        one.set_adapter("mix")
    torch.testing.assert_close(logits(model), logits(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", ["none", "a", "b", "ab"])
def test_a_combination_is_that_of_peft_and_shares_as_its_adapters(share: str, kind: str) -> None:
    model = pair({"share": share, "lora_alpha": 6})
    if kind.endswith("svd") and share in ("a", "b"):
        with pytest.raises(UserError, match=f"{kind} gives .* another lora_.* both would have to be shared"):
            compare(model, kind, **KINDS[kind])
        assert list(model.peft_config) == list(model.base_model.plans) == ["default", "second"]
        return
    compare(model, kind, **KINDS[kind])
    plan, mix = (model.base_model.plans[name] for name in ("default", "mix"))
    assert len(mix.matrices) == len(plan.matrices) == len(bank(model, "mix"))
    assert {e.r for e in mix.entries} == {8 if kind == "cat" else 4}
    assert not any(matrix.requires_grad for matrix in bank(model, "default").values())


def test_dare_drops_once_for_all_that_share() -> None:
    model = pair({"share": "a"})
    model.add_weighted_adapter(["default", "second"], [1.0, 1.0], "mix", combination_type="dare_linear", density=0.5)
    mix = bank(model, "mix")
    for name, matrix in bank(model).items():
        other = bank(model, "second")[name]
        scale = model.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"] ** 0.5
        possible = torch.stack([2 * scale * v for v in (matrix * 0, matrix, other, matrix + other)])
        assert (possible - mix[name]).abs().amin(0).max() < 1e-5 and (mix[name] == 0).any()


def test_cat_of_different_ranks_and_scalings() -> None:
    model = pair({"share": "ab", "r": 4, "lora_alpha": 6}, {"share": "ab", "r": 2, "lora_alpha": 3, "use_rslora": True})
    compare(model, "cat")
    assert {e.r for e in model.base_model.plans["mix"].entries} == {6}
    assert len(bank(model, "mix")) == len(bank(model)) == 4


def test_sharing_of_the_first_where_the_other_has_more() -> None:
    compare(pair({"share": "none"}, {"share": "ab"}), "cat")
    compare(pair({"share": "none"}, {"share": "a"}), "svd")
    compare(pair({"share": "a"}, {"share": "ab"}), "linear")
    model = pair({"share": "a"}, {"share": "none"})
    with pytest.raises(UserError, match="name the one that shares least first"):
        model.add_weighted_adapter(["default", "second"], WEIGHTS, "mix", combination_type="cat")


def test_other_modules_and_one_adapter_alone() -> None:
    compare(pair({"share": "none"}, {"share": "none", "target_modules": ["k_proj"]}), "cat")
    model = pair({"share": "a"})
    model.add_weighted_adapter(["default"], [2.0], "twice", combination_type="cat")
    layer = model.base_model.model.model.layers[1].self_attn.v_proj
    torch.testing.assert_close(layer.get_delta_weight("twice"), 2 * layer.get_delta_weight("default"))


def test_ranks_and_scalings_that_differ_between_layers() -> None:
    for settings in ({"alpha_pattern": {"layers.0.self_attn.q_proj": 1}}, {"rank_pattern": {"q_proj": 2}}):
        compare(pair({"share": "none", **settings}), "cat")
    compare(pair({"share": "b", "alpha_pattern": {"layers.0.self_attn.q_proj": 1}}), "cat")
    model = pair({"share": "a", "alpha_pattern": {"layers.0.self_attn.q_proj": 1}})
    with pytest.raises(UserError, match="or scale layers differently"):
        model.add_weighted_adapter(["default", "second"], WEIGHTS, "mix", combination_type="cat")
    model = pair({"share": "a", "rank_pattern": {"layers.0.self_attn.q_proj": 2}})
    with pytest.raises(UserError, match="share differently there"):
        model.add_weighted_adapter(["default", "second"], WEIGHTS, "mix", combination_type="cat")


@pytest.mark.parametrize("kind", ["cat", "linear", "svd"])
def test_slices_of_fused_modules(kind: str) -> None:
    settings = {"enable_lora": {"c_attn": [True, False, True]}, "target_modules": ["c_attn"], "share": "none"}
    model = adapted(gpt2(), **settings)
    model.add_adapter("second", ShareLoraConfig(r=4, **settings))
    shake(model)
    model.add_weighted_adapter(["default", "second"], [0.5, 0.5], "mix", combination_type=kind)
    layer = model.base_model.model.transformer.h[1].attn.c_attn
    parts = [layer.get_delta_weight(name).T.chunk(3) for name in ("default", "second", "mix")]
    for first, second, mix in zip(*parts, strict=True):
        expected = 0.5 * first + 0.5 * second
        if kind == "cat":
            torch.testing.assert_close(mix, expected, rtol=1e-4, atol=1e-5)
        elif kind == "svd":
            u, s, v = torch.linalg.svd(expected, full_matrices=False)
            torch.testing.assert_close(mix, (u[:, :4] * s[:4]) @ v[:4], rtol=1e-4, atol=1e-5)
    assert parts[2][1].abs().max() == 0 and parts[2][0].abs().max() > 0


def test_a_combination_is_saved_loaded_and_trained(tmp_path: Path) -> None:
    model = pair({"share": "ab", "share_groups": [[0, 2]]})
    model.save_pretrained(tmp_path / "two")
    model = PeftModel.from_pretrained(llama(), tmp_path / "two")
    model.load_adapter(tmp_path / "two" / "second", "second")
    model.add_weighted_adapter(["default", "second"], WEIGHTS, "mix", combination_type="cat")
    model.set_adapter("mix")
    expected = logits(model)
    model.save_pretrained(tmp_path, selected_adapters=["mix"])
    again = PeftModel.from_pretrained(llama(), tmp_path / "mix", is_trainable=True)
    assert torch.equal(logits(again), expected)
    losses = train(again, language_batch(), 3)
    assert losses[-1] < losses[0]


def test_fitted_adapters_leave_the_base_alone() -> None:
    model = adapted(llama(), share="none", init_lora_weights="olora")
    weight = model.base_model.model.model.layers[0].self_attn.q_proj.base_layer.weight
    before = weight.detach().clone()
    model.add_weighted_adapter(["default"], [1.0], "mix")
    assert torch.equal(weight, before)


def test_what_does_not_go_together_is_refused_before_anything_changes() -> None:
    model = pair({"share": "a"})
    with pytest.raises(UserError, match="1 weights for 2 adapters"):
        model.add_weighted_adapter(["default", "second"], [1.0], "mix", combination_type="cat")
    with pytest.raises(ValueError, match="Invalid combination_type: mean"):
        model.add_weighted_adapter(["default", "second"], WEIGHTS, "mix", combination_type="mean")
    plans = {"sites": [{"path": "*", "a": "{kind}", "b": "{kind}/{layer}", "r": 4}]}
    model = pair({"share_plan": plans})
    with pytest.raises(UserError, match="a hand-written plan leaves room for its own rank alone"):
        model.add_weighted_adapter(["default", "second"], WEIGHTS, "mix", combination_type="cat")
    assert list(model.peft_config) == list(model.base_model.lora_bank) == ["default", "second"]
    compare(model, "linear")


class Mixed(nn.Module):
    """An embedding, convolutions and an attention."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.emb, self.conv = nn.Embedding(10, 8), nn.Conv2d(8, 8, 3, padding=1, groups=groups)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(ids)
        x = x + self.conv(x.transpose(1, 2)[..., None]).squeeze(-1).transpose(1, 2)
        return self.attn(x, x, x)[0]


def mixed(config: Any, groups: int = 1) -> PeftModel:
    torch.manual_seed(0)
    return get_peft_model(Mixed(groups), config)


@pytest.mark.parametrize("kind", ["cat", "linear", "svd"])
def test_embeddings_convolutions_and_attention(kind: str) -> None:
    ids = torch.tensor([[1, 4, 7, 2]])
    settings = {"r": 4, "target_modules": ["emb", "conv", "attn"], "lora_alpha": 6}
    model = mixed(ShareLoraConfig(share="none", **settings))
    model.add_adapter("second", ShareLoraConfig(share="none", **settings))
    theirs = mixed(LoraConfig(**settings))
    theirs.add_adapter("second", LoraConfig(**settings))
    shake(model)
    for name in ("default", "second"):
        for path in model.base_model.plans[name].by_path:
            layer, other = (layer_at(m.base_model.model, path) for m in (model, theirs))
            for side in "AB":
                if name in layer.lora_A:
                    mine = getattr(layer, f"lora_{side}")[name].weight
                    getattr(other, f"lora_{side}")[name].weight.data.copy_(mine)
                else:
                    mine = getattr(layer, f"lora_embedding_{side}")[name]
                    getattr(other, f"lora_embedding_{side}")[name].data.copy_(mine)
    found = []
    for one in (model.eval(), theirs.eval()):
        one.add_weighted_adapter(["default", "second"], [0.5, 1.5], "mix", combination_type=kind)
        one.set_adapter("mix")
        found.append(one(ids))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer")
def test_groups_of_convolutions_are_refused() -> None:
    settings = {"r": 4, "target_modules": ["conv"], "share": "none"}
    model = mixed(ShareLoraConfig(**settings), groups=2)
    model.add_adapter("second", ShareLoraConfig(**settings))
    with pytest.raises(UserError, match="conv works in groups, whose adapters cannot be combined"):
        model.add_weighted_adapter(["default", "second"], [1.0, 1.0], "mix", combination_type="cat")
