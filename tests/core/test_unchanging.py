"""While nothing trains, adapted layers keep their matrices as they compute with them, and compute the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from sharelora import ShareLoraConfig
from sharelora.tuner.bank import MatrixView
from sharelora.tuner.layer import ShareLayer, unchanging

SHAPE: dict[str, Any] = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
IDS = torch.arange(12).view(2, 6)


def llama(dtype: torch.dtype = torch.float32, share: str = "a") -> Any:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, intermediate_size=48)).to(dtype)
    names = ["q_proj", "k_proj", "v_proj", "down_proj"]
    return get_peft_model(
        model, ShareLoraConfig(r=4, share=share, target_modules=names, init_lora_weights=False)
    ).eval()


def gpt2() -> Any:
    """Its fused q, k, v have matrices for q and v alone, which are put together at every call."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=2))
    config = ShareLoraConfig(
        r=4, target_modules=["c_attn"], enable_lora={"c_attn": [True, False, True]}, init_lora_weights=False,
        fan_in_fan_out=True,
    )  # fmt: skip
    return get_peft_model(model, config).eval()


CASES = [llama, lambda: llama(torch.bfloat16), lambda: llama(share="none"), gpt2]


@pytest.mark.parametrize("make", CASES, ids=["share_a", "bf16", "lora", "fused"])
@pytest.mark.parametrize("ids", [IDS, IDS[:1, :1]], ids=["many", "few"])
def test_logits_are_the_same_and_matrices_are_made_once(
    make: Any, ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, made = make(), []
    weight = MatrixView.weight
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        monkeypatch.setattr(MatrixView, "weight", property(lambda self: made.append(self) or weight.fget(self)))
        with unchanging(model):
            for _ in range(3):
                with unchanging(model):  # as an engine that another one calls
                    found = model(input_ids=ids).logits
    tolerance = 0.05 if expected.dtype is torch.bfloat16 else 1e-5
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    layers = sum(isinstance(module, ShareLayer) for module in model.modules())
    assert layers and len(made) == 2 * layers


def test_afterwards_written_matrices_count_and_gradients_flow_meanwhile() -> None:
    model = llama()
    with unchanging(model):
        with torch.no_grad():
            before = model(input_ids=IDS).logits
        model(input_ids=IDS).logits.sum().backward()
    gradients = [value.grad for name, value in model.named_parameters() if "lora_" in name]
    assert gradients and all(gradient is not None and gradient.any() for gradient in gradients)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.mul_(2)
        assert not torch.allclose(model(input_ids=IDS).logits, before)
    assert all(module.kept is None for module in model.modules() if isinstance(module, ShareLayer))


def test_the_base_and_a_second_adapter_are_still_there() -> None:
    model = llama()
    config = ShareLoraConfig(r=2, share="a", target_modules=["q_proj"], init_lora_weights=False)
    model.add_adapter("second", config)
    with torch.no_grad():
        expected = [_of(model, name) for name in ("default", "second", None)]
        with unchanging(model):
            for _ in range(2):
                found = [_of(model, name) for name in ("default", "second", None)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def _of(model: Any, adapter: str | None) -> Tensor:
    if adapter is None:
        with model.disable_adapter():
            return model(input_ids=IDS).logits
    model.set_adapter(adapter)
    return model(input_ids=IDS).logits


def test_what_a_watched_base_layer_returned_is_not_written_to() -> None:
    model, seen = llama(), []
    layer = next(module for module in model.modules() if isinstance(module, ShareLayer))
    base: nn.Module = layer.base_layer
    base.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    with torch.no_grad(), unchanging(model):
        model(input_ids=IDS)
    ((x, y),) = seen
    assert torch.equal(y, x @ base.weight.t())
