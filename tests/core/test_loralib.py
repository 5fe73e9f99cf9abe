"""The original LoRA code as the oracle: RoBERTa, and GPT-2's fused c_attn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from toy_models import adapted, bank, class_batch, gpt2, gradients, language_batch, logits, roberta, shake

lora = pytest.importorskip("loralib")

QUERY_VALUE = ["query", "value"]
ALPHA, RANK = 8, 4


def with_loralib(model: nn.Module, names: list[str]) -> nn.Module:
    """Put loralib's layers in, frozen base weights copied, as upstream's models do."""
    for path, module in list(model.named_modules()):
        parent, _, name = path.rpartition(".")
        if name not in names:
            continue
        if name == "c_attn":
            new = lora.MergedLinear(
                module.weight.shape[0], module.weight.shape[1], r=RANK, lora_alpha=ALPHA,
                enable_lora=[True, False, True], merge_weights=False,
            )  # fmt: skip
            new.weight.data = module.weight.data.t().contiguous()
        else:
            new = lora.Linear(module.in_features, module.out_features, r=RANK, lora_alpha=ALPHA, merge_weights=False)
            new.weight.data = module.weight.data.clone()
        new.bias.data = module.bias.data.clone()
        setattr(model.get_submodule(parent), name, new)
    lora.mark_only_lora_as_trainable(model)
    return model


def test_roberta_without_sharing_equals_loralib() -> None:
    ours = shake(adapted(roberta(), share="none", r=RANK, lora_alpha=ALPHA, target_modules=QUERY_VALUE))
    theirs = with_loralib(roberta(), QUERY_VALUE)
    entries = ours.base_model.plans["default"].entries
    assert len(entries) == 4
    for entry in entries:
        layer = theirs.get_submodule(entry.site.path)
        layer.lora_A.data, layer.lora_B.data = bank(ours)[entry.a].data.clone(), bank(ours)[entry.b].data.clone()
    (loss, mine), (expected, original) = gradients(ours, class_batch()), gradients(theirs, class_batch())
    torch.testing.assert_close(loss, expected)
    for entry in entries:
        for name, side in ((entry.a, "A"), (entry.b, "B")):
            found = mine[f"base_model.lora_bank.default.{name}"]
            torch.testing.assert_close(found, original[f"{entry.site.path}.lora_{side}"], rtol=1e-4, atol=1e-8)


def fused(share: str = "none", **settings: object) -> nn.Module:
    return adapted(
        gpt2(), share=share, r=RANK, lora_alpha=ALPHA, target_modules=["c_attn"],
        enable_lora={"c_attn": [True, False, True]}, **settings,
    )  # fmt: skip


def merged_linear_weights(model: nn.Module, layer: int) -> tuple[Tensor, Tensor]:
    """The matrices of q and v as loralib stacks them."""
    entries = model.base_model.plans["default"].by_path[f"transformer.h.{layer}.attn.c_attn"]
    return (
        torch.cat([bank(model)[entry.a].data for entry in entries]),
        torch.cat([bank(model)[entry.b].data for entry in entries]),
    )


@pytest.mark.parametrize("share", ["none", "a", "ab"])
def test_gpt2_equals_merged_linear(share: str) -> None:
    ours, theirs = shake(fused(share)), with_loralib(gpt2(), ["c_attn"])
    for layer in range(2):
        module = theirs.transformer.h[layer].attn.c_attn
        module.lora_A.data, module.lora_B.data = merged_linear_weights(ours, layer)
    (loss, mine), (expected, original) = gradients(ours, language_batch()), gradients(theirs, language_batch())
    torch.testing.assert_close(loss, expected)
    summed: dict[str, Tensor] = {}
    for entry in ours.base_model.plans["default"].entries:
        index = {0: 0, 2: 1}[entry.site.part]
        for side, name in (("A", entry.a), ("B", entry.b)):
            part = original[f"{entry.site.path}.lora_{side}"].chunk(2)[index]
            summed[name] = summed.get(name, torch.zeros_like(part)) + part
    for name, value in summed.items():
        torch.testing.assert_close(mine[f"base_model.lora_bank.default.{name}"], value, rtol=1e-4, atol=1e-7)


def test_gpt2_begins_as_merged_linear_does() -> None:
    ours = fused()
    a = bank(ours)["lora_A/attn/c_attn[0]/0/4x32"]
    bound = 32**-0.5
    assert a.abs().max() <= bound and a.std().item() == pytest.approx(bound / 3**0.5, rel=0.2)
    assert all(value.abs().max() == 0 for name, value in bank(ours).items() if name.startswith("lora_B"))
    assert not torch.equal(a, bank(ours)["lora_A/attn/c_attn[2]/0/4x32"])
    wide = fused(init_lora_weights="gaussian")
    values = torch.cat([value.flatten() for name, value in bank(wide).items() if name.startswith("lora_A")])
    assert values.std().item() == pytest.approx(1 / RANK, rel=0.15)


def test_keys_stay_as_they_are_and_merging_is_exact() -> None:
    ours = shake(fused("a"))
    layer = ours.base_model.model.transformer.h[0].attn.c_attn
    x = torch.randn(3, 32)
    change = layer(x) - layer.base_layer(x)
    assert change[:, 32:64].abs().max() == 0 and change[:, :32].abs().min() > 0 and change[:, 64:].abs().min() > 0
    expected = logits(ours)
    torch.testing.assert_close(logits(ours.merge_and_unload()), expected, rtol=1e-4, atol=1e-5)


def test_one_scaling_for_every_kind_of_alpha() -> None:
    for settings, expected in (({}, ALPHA / RANK), ({"use_rslora": True}, ALPHA / RANK**0.5)):
        layer = fused(**settings).base_model.model.transformer.h[0].attn.c_attn
        assert layer.scaling["default"] == pytest.approx(expected)
        layer.scale_layer(3.0)
        layer.unscale_layer()
        assert layer.scaling["default"] == pytest.approx(expected)
