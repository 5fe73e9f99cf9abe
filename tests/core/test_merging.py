"""Merging into the base and taking out again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toy_models import adapted, gpt2, language_batch, llama, logits, shake, tokens, train

from sharelora import ShareLoraConfig

MODES: list[dict[str, Any]] = [
    {"share": "none"},
    {"share": "ab"},
    {"share": "a", "share_across": "modules", "target_modules": ["q_proj", "k_proj", "v_proj"]},
    {"share": "ab", "use_rslora": True, "lora_alpha": 5},
    {"share": "a", "use_dora": True},
]


@pytest.mark.parametrize("settings", MODES, ids=str)
def test_a_merged_model_is_a_plain_one(settings: dict[str, Any]) -> None:
    model = shake(adapted(llama(), **settings))
    expected = logits(model)
    merged = model.merge_and_unload(safe_merge=True)
    assert type(merged.model.layers[0].self_attn.q_proj) is torch.nn.Linear
    assert not [name for name in merged.state_dict() if "lora" in name]
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-5)
    assert (logits(merged) - logits(llama())).abs().max() > 1e-2


@pytest.mark.parametrize("settings", MODES, ids=str)
def test_merging_twice_and_taking_out_is_idle(settings: dict[str, Any]) -> None:
    model = shake(adapted(llama(), **settings))
    expected, base = logits(model), [p.detach().clone() for p in llama().parameters()]
    for _ in range(3):
        model.merge_adapter()
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
        with pytest.warns(UserWarning, match="All adapters are already merged"):
            model.merge_adapter()
        model.unmerge_adapter()
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
    kept = [p for name, p in model.base_model.model.named_parameters() if "lora" not in name]
    for now, before in zip(kept, base, strict=True):
        torch.testing.assert_close(now, before, rtol=0, atol=1e-6)
    assert train(model, language_batch(), 3)[-1] > 0


def test_unloading_gives_the_base_back() -> None:
    model = shake(adapted(llama(), share="a"))
    assert torch.equal(logits(model.unload()), logits(llama()))


def test_one_of_two_adapters_is_merged() -> None:
    model = adapted(llama(), share="a")
    model.add_adapter("second", ShareLoraConfig(r=3, share="ab", target_modules=["k_proj", "v_proj"]))
    shake(model)
    model.set_adapter("second")
    expected = logits(model)
    model.merge_adapter(["second"])
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="while they are merged"):
        model.delete_adapter("second")
    assert set(model.base_model.lora_bank) == {"default", "second"}


def test_merged_weights_do_not_train_and_mixed_batches_are_refused() -> None:
    model = shake(adapted(llama(), share="a"))
    model.merge_adapter()
    with pytest.raises(ValueError, match="merged adapters"):
        model.eval()(input_ids=tokens(), adapter_names=["default", "__base__"])


def test_gpt2_merges_into_transposed_weights() -> None:
    model = shake(adapted(gpt2(), share="ab", target_modules=["c_attn", "c_proj", "c_fc"]))
    expected = logits(model)
    torch.testing.assert_close(logits(model.merge_and_unload()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_bases_merge_within_rounding(dtype: torch.dtype) -> None:
    model = shake(adapted(llama().to(dtype), share="a"))
    expected = logits(model)
    merged = model.merge_and_unload()
    assert merged.dtype is dtype
    torch.testing.assert_close(logits(merged), expected, rtol=0.05, atol=0.05)
