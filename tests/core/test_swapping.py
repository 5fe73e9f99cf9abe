"""PEFT's hot-swap: another adapter's values in the place of one, and room for adapters of higher rank."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.utils.hotswap import hotswap_adapter, prepare_model_for_compiled_hotswap
from safetensors.torch import load_file
from torch import nn
from toy_models import QKV, adapted, bank, gpt2, language_batch, llama, logits, shake, tokens, train

from sharelora import UserError


def saved(folder: Path, seed: int, **settings: Any) -> tuple[str, torch.Tensor]:
    """A folder with an adapter, and the logits of its model."""
    model = shake(adapted(llama(), **settings), seed)
    model.save_pretrained(folder)
    return str(folder), logits(model)


@pytest.mark.parametrize("share", ["none", "a", "ab"])
def test_the_values_and_the_scaling_are_those_of_the_other(tmp_path: Path, share: str) -> None:
    model = shake(adapted(llama(), share=share))
    matrices = {name: matrix.data_ptr() for name, matrix in bank(model).items()}
    for seed, settings in enumerate(({}, {"lora_alpha": 3}, {"r": 2, "lora_alpha": 6}, {"r": 4})):
        folder, expected = saved(tmp_path / str(seed), seed, share=share, **settings)
        hotswap_adapter(model, folder, adapter_name="default", torch_device="cpu")
        torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-6)
        assert {name: matrix.data_ptr() for name, matrix in bank(model).items()} == matrices
        # What is saved now is what there is, and the sharing is whole.
        model.save_pretrained(tmp_path / "again")
        again = PeftModel.from_pretrained(llama(), tmp_path / "again")
        torch.testing.assert_close(logits(again), expected, rtol=1e-5, atol=1e-6)
    assert len(train(model, language_batch(), 2)) == 2


def test_another_adapter_of_the_model_keeps_its_values(tmp_path: Path) -> None:
    folder, expected = saved(tmp_path / "other", 1, share="a", lora_alpha=3)
    model = adapted(llama(), share="a")
    model.add_adapter("second", model.peft_config["default"])
    shake(model)
    before = logits(model)
    model.set_adapter("second")
    hotswap_adapter(model, folder, adapter_name="second", torch_device="cpu")
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-6)
    model.set_adapter("default")
    assert torch.equal(logits(model), before)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["lora_alpha"] == 8
    assert torch.equal(logits(PeftModel.from_pretrained(llama(), tmp_path)), before)


@pytest.mark.parametrize(
    "settings", [{"share": "a"}, {"share": "ab", "use_rslora": True, "alpha_pattern": {"v_proj": 2}}]
)
def test_room_for_a_higher_rank_changes_no_output(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = shake(adapted(llama(), **settings))
    before, plan = logits(model), model.base_model.plans["default"]
    prepare_model_for_compiled_hotswap(model, target_rank=6, config=model.peft_config)
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-6)
    assert {e.r for e in model.base_model.plans["default"].entries} == {6} and model.peft_config["default"].r == 6
    assert len(bank(model)) == len(plan.matrices)
    model.save_pretrained(tmp_path / "padded")
    assert len(load_file(tmp_path / "padded" / "adapter_model.safetensors")) == len(plan.matrices)
    again = PeftModel.from_pretrained(llama(), tmp_path / "padded")
    torch.testing.assert_close(logits(again), before, rtol=1e-5, atol=1e-6)
    if "alpha_pattern" not in settings:
        for rank in (6, 3):
            folder, expected = saved(tmp_path / str(rank), rank, **settings, r=rank, lora_alpha=5)
            hotswap_adapter(model, folder, adapter_name="default", torch_device="cpu")
            torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-6)


def test_ranks_that_differ_are_raised_to_one(tmp_path: Path) -> None:
    model = shake(adapted(llama(), share="a", rank_pattern={"q_proj": 2}))
    before = logits(model)
    prepare_model_for_compiled_hotswap(model, target_rank=4)
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-6)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(PeftModel.from_pretrained(llama(), tmp_path)), before, rtol=1e-5, atol=1e-6)
    mixed = adapted(llama(), share="a", rank_pattern={"layers.0.self_attn.q_proj": 2})
    with pytest.raises(UserError, match="different ranks in one kind of module"):
        prepare_model_for_compiled_hotswap(mixed, target_rank=4)


@pytest.mark.parametrize("share", ["none", "a", "ab"])
def test_an_adapter_of_higher_rank_and_fewer_modules_is_swapped_in_and_out(tmp_path: Path, share: str) -> None:
    own, before = saved(tmp_path / "own", 1, share=share, target_modules=QKV)
    other, after = saved(tmp_path / "other", 2, share=share, target_modules=["k_proj"], r=6, lora_alpha=3)
    model = PeftModel.from_pretrained(llama(), own, is_trainable=True)
    for folder, expected in ((other, after), (own, before), (other, after)):
        hotswap_adapter(model, folder, adapter_name="default", torch_device="cpu")
        torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-6)
        ranks = {e.site.path.rpartition(".")[2]: e.r for e in model.base_model.plans["default"].entries}
        assert ranks == {"q_proj": 4, "k_proj": 6, "v_proj": 4}
        model.save_pretrained(tmp_path / "again")
        again = PeftModel.from_pretrained(llama(), tmp_path / "again")
        torch.testing.assert_close(logits(again), expected, rtol=1e-5, atol=1e-6)
    # What the other one leaves out stays off.
    off = [m for name, m in bank(model).items() if "k_proj" not in name]
    assert len(train(model, language_batch(), 2)) == 2 and not any(m.any() for m in off)


def test_a_rank_that_layers_share_rises_for_all_of_them(tmp_path: Path) -> None:
    own, _ = saved(tmp_path / "own", 1, share="a")
    other, expected = saved(tmp_path / "other", 2, share="a", layers_to_transform=[0, 2], r=6)
    model = PeftModel.from_pretrained(llama(), own)
    hotswap_adapter(model, other, adapter_name="default", torch_device="cpu")
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-6)
    assert {entry.r for entry in model.base_model.plans["default"].entries} == {6}


def test_a_bias_stays_where_a_rank_rises() -> None:
    model = shake(adapted(llama(attention_bias=True), share="a", lora_bias=True))
    before = logits(model)
    prepare_model_for_compiled_hotswap(model, target_rank=6)
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-6)


class Grouped(nn.Module):
    """A convolution of two groups, and one of one group after it, whose A has the same shape."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.two, self.one = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(self.two(x))


IMAGE = torch.linspace(-1, 1, 4 * 25).reshape(1, 4, 5, 5)


@pytest.mark.filterwarnings("ignore:.*Merging is not supported")
def test_each_group_of_a_convolution_gets_the_higher_rank(tmp_path: Path) -> None:
    settings = {"share": "none", "target_modules": ["two"]}
    other = shake(adapted(Grouped(), **settings, r=6), 1)
    other.save_pretrained(tmp_path)
    model = shake(adapted(Grouped(), **settings))
    before = model(IMAGE)
    prepare_model_for_compiled_hotswap(model, target_rank=8)
    torch.testing.assert_close(model(IMAGE), before)
    hotswap_adapter(model, str(tmp_path), adapter_name="default", torch_device="cpu")
    torch.testing.assert_close(model(IMAGE), other(IMAGE))
    with pytest.raises(UserError, match="rank 9 for two, a convolution of 2 groups"):
        prepare_model_for_compiled_hotswap(model, target_rank=9)


@pytest.mark.filterwarnings("ignore:.*Merging is not supported")
def test_a_matrix_of_convolutions_with_different_groups_keeps_its_rank() -> None:
    rows = [{"path": "*", "a": "all", "b": "{kind}"}]
    model = shake(adapted(Grouped(), share_plan={"sites": rows}, target_modules=["one", "two"]))
    before = model(IMAGE)
    with pytest.raises(UserError, match="is of convolutions with 1 and 2 groups, so its rank cannot change"):
        prepare_model_for_compiled_hotswap(model, target_rank=8)
    assert torch.equal(model(IMAGE), before)


@pytest.mark.slow
def test_a_compiled_model_is_not_compiled_again(tmp_path: Path) -> None:
    folder, expected = saved(tmp_path, 1, share="a", r=6, lora_alpha=3)
    model = shake(adapted(llama(), share="a")).eval()
    prepare_model_for_compiled_hotswap(model, target_rank=6)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        compiled(input_ids=tokens())
        hotswap_adapter(compiled, folder, adapter_name="default", torch_device="cpu")
        torch.testing.assert_close(compiled(input_ids=tokens()).logits, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("own", "other", "message"),
    [
        ({"share": "a"}, {"share": "none"}, "has its own matrices for layers that share one here"),
        ({"share": "none"}, {"share": "a"}, "between layers that have their own here"),
        (
            {"share": "a"},
            {"share": "a", "target_modules": QKV},
            "the other adapter has .*k_proj, which this one leaves",
        ),
        ({"share": "ab"}, {"share": "ab", "layers_to_transform": [0, 1]}, r"leaves out .*\.2\..* that it has"),
    ],
)
def test_adapters_that_share_differently_are_refused(
    tmp_path: Path, own: dict[str, Any], other: dict[str, Any], message: str
) -> None:
    folder, _ = saved(tmp_path, 1, **other)
    model = shake(adapted(llama(), **own))
    before = logits(model)
    with pytest.raises(UserError, match=message):
        hotswap_adapter(model, folder, adapter_name="default", torch_device="cpu")
    assert torch.equal(logits(model), before)


@pytest.mark.filterwarnings("ignore:.*has no bias")
def test_what_is_more_than_matrices_is_refused(tmp_path: Path) -> None:
    for settings in ({"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"lora_bias": True}):
        folder, _ = saved(tmp_path / next(iter(settings)), 1, share="a", **settings)
        model = adapted(llama(), share="a", **settings)
        with pytest.raises(UserError, match="heads, embeddings, biases or DoRA's magnitudes cannot be"):
            hotswap_adapter(model, folder, adapter_name="default", torch_device="cpu")
    folder, _ = saved(tmp_path / "merged", 1, share="a")
    model = adapted(llama(), share="a")
    model.merge_adapter()
    with pytest.raises(UserError, match="merged into the base; unmerge"):
        hotswap_adapter(model, folder, adapter_name="default", torch_device="cpu")


def test_there_is_no_room_below_the_own_rank_or_in_fused_modules() -> None:
    with pytest.raises(UserError, match="has rank 4; give a target_rank of 4 or more"):
        prepare_model_for_compiled_hotswap(adapted(llama(), share="a"), target_rank=3)
    fused = adapted(gpt2(), share="a", target_modules=["c_attn"], enable_lora={"c_attn": [True, False, True]})
    with pytest.raises(UserError, match=r"has fused modules, .* which cannot be raised to rank 8"):
        prepare_model_for_compiled_hotswap(fused, target_rank=8)
