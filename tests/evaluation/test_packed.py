"""Packed copies of weights give the model's own outputs, and leave the model as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from sharelora import ShareLoraConfig
from sharelora.evaluation import packed as module
from sharelora.evaluation.packed import packed

IDS = torch.tensor([[5, 1, 4, 1], [3, 2, 0, 6]])
SHARED = {"r": 4, "fan_in_fan_out": True, "target_modules": ["c_attn", "c_fc"]}


def base(kind: str = "gpt2") -> Any:
    torch.manual_seed(0)
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=16, n_layer=2, n_head=2, n_positions=32)).eval()
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=30, **shape)).eval()


def adapted(config: LoraConfig, kind: str = "gpt2") -> Any:
    model = get_peft_model(base(kind), config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora" in name:
                value.normal_(std=0.3)
    return model.eval()


MODELS = {
    "gpt2": base,
    "llama": lambda: base("llama"),
    "shared": lambda: adapted(ShareLoraConfig(share="a", **SHARED)),
    "query and value": lambda: adapted(
        ShareLoraConfig(
            r=4, fan_in_fan_out=True, target_modules=["c_attn"], enable_lora={"c_attn": [True, False, True]}
        )
    ),
    "peft": lambda: adapted(LoraConfig(r=4, target_modules=["q_proj", "down_proj"]), "llama"),
    "dora": lambda: adapted(LoraConfig(r=4, use_dora=True, target_modules=["q_proj"]), "llama"),
    "head": lambda: adapted(LoraConfig(r=4, target_modules=["lm_head"]), "llama"),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", MODELS)
def test_outputs_are_the_models_own(kind: str) -> None:
    model = MODELS[kind]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = model(input_ids=IDS).logits
    with packed(model, 8):
        replaced = [name for name, part in model.named_modules() if "forward" in vars(part)]
        assert torch.allclose(model(input_ids=IDS).logits, expected, atol=1e-5)
    assert any(name.endswith("c_attn") or name.endswith("k_proj") for name in replaced)
    # An adapter that is more than two matrices stays with PEFT, which calls the layer's own forward.
    assert any("q_proj" in name for name in replaced) == (kind in ("llama", "peft", "head"))
    assert not any("forward" in vars(part) for part in model.modules())
    assert torch.equal(model(input_ids=IDS).logits, expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@torch.no_grad()
def test_an_adapter_that_is_off_is_not_merged() -> None:
    model = adapted(ShareLoraConfig(share="a", **SHARED))
    with model.disable_adapter():
        expected = model(input_ids=IDS).logits
        with packed(model, 8):
            assert torch.allclose(model(input_ids=IDS).logits, expected, atol=1e-5)
    assert not torch.allclose(model(input_ids=IDS).logits, expected, atol=1e-2)


@pytest.mark.parametrize("case", ["64 bits", "16 bits", "memory", "hooked"])
def test_where_it_cannot_be_nothing_is_replaced(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = base()
    if case == "memory":
        monkeypatch.setattr(module, "free_memory", lambda device: 1000)
    model = {"64 bits": model.double, "16 bits": model.bfloat16}.get(case, lambda: model)()
    if case == "hooked":
        model.lm_head.forward = own = model.lm_head.forward
    with packed(model, 8):
        replaced = [part for part in model.modules() if "forward" in vars(part)]
        assert (model.lm_head.forward is own and len(replaced) > 1) if case == "hooked" else not replaced


def test_an_error_leaves_the_model_as_it_was() -> None:
    model = base()
    with pytest.raises(KeyError), packed(model, 8):
        raise KeyError
    assert not any("forward" in vars(part) for part in model.modules())
