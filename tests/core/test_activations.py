"""The formula for activations agrees with the tensors that autograd really saves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    RobertaConfig,
)

from sharelora import ShareLoraConfig
from sharelora.memory.activations import Heads, Workload, adapter_layer, base_layer, heads_of, peak, shape_of
from sharelora.memory.estimator import estimate
from sharelora.plan.plan import SharingPlan
from sharelora.plan.rule import SharingRule
from sharelora.plan.site import SAME_INPUT, Site

B, T, L = 2, 64, 3


def llama() -> nn.Module:
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=L,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=512,
        use_cache=False,
    )
    return AutoModelForCausalLM.from_config(config)


def gpt2(dropout: float = 0.0) -> nn.Module:
    config = GPT2Config(
        n_embd=64,
        n_layer=L,
        n_head=4,
        vocab_size=512,
        attn_pdrop=dropout,
        resid_pdrop=dropout,
        embd_pdrop=0,
        bos_token_id=1,
        eos_token_id=1,
        use_cache=False,
    )
    return AutoModelForCausalLM.from_config(config)


def roberta(dropout: float = 0.1) -> nn.Module:
    config = RobertaConfig(
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=L,
        num_attention_heads=4,
        vocab_size=512,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return AutoModelForSequenceClassification.from_config(config)


ALL = "all-linear"
CASES = [
    (llama, ALL, torch.float32, 0.0),
    (llama, ALL, torch.bfloat16, 0.0),
    (llama, ALL, torch.bfloat16, 0.1),
    (llama, ALL, torch.bfloat16, 0.1, True),
    (llama, ALL, torch.float32, 0.1),
    (llama, ["q_proj", "v_proj"], torch.bfloat16, 0.1),
    (gpt2, ["c_attn"], torch.float32, 0.1),
    (lambda: gpt2(0.1), ["c_attn", "c_fc", "mlp.c_proj"], torch.float32, 0.0),
    (roberta, ["query", "value"], torch.float32, 0.0),
    (lambda: roberta(0.0), ["query", "value"], torch.float32, 0.0),
]


def saved_bytes(model: nn.Module, labels: torch.Tensor) -> int:
    """Count what autograd keeps of one forward pass, every storage once, parameters and buffers excluded."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            saved[place] = tensor
        return tensor

    ids = torch.randint(5, 512, (B, T))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=ids, labels=ids if labels.ndim == 0 else labels)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


@pytest.mark.parametrize("case", CASES)
def test_the_formula_counts_what_autograd_saves(case: tuple[Any, ...]) -> None:
    make, targets, dtype, dropout, *one_mask = case
    base = make().to(dtype)
    shape, one_mask = shape_of(base), bool(one_mask)
    config = ShareLoraConfig(r=8, target_modules=targets, lora_dropout=dropout, share_dropout_mask=one_mask)
    model = get_peft_model(base, config).train()
    load = Workload(B, T, dtype.itemsize, dropout, one_mask)
    plan = model.base_model.plans["default"]
    layers = [[entry for entry in plan.entries if entry.site.layer == layer] for layer in range(L)]
    formula = sum(base_layer(shape, load) + adapter_layer(entries, shape, load) for entries in layers)
    measured = saved_bytes(model, torch.tensor(0) if shape.vocab else torch.zeros(B, dtype=torch.long))
    loss = B * T * shape.vocab * 4  # the log-softmax of all tokens
    assert formula == pytest.approx(measured - loss, rel=0.08)


def test_checkpointing_keeps_less_and_the_head_stays() -> None:
    model = get_peft_model(llama(), ShareLoraConfig(r=8, share="a", target_modules=ALL))
    shape, plan = shape_of(model), model.base_model.plans["default"]
    load = Workload(B, T, 4)
    without, with_it = peak(shape, plan, load, False), peak(shape, plan, load, True)
    assert B * T * shape.vocab * 8 < with_it < without


def test_layers_below_the_first_adapter_keep_nothing() -> None:
    everywhere = get_peft_model(llama(), ShareLoraConfig(r=8, share="none", target_modules=["q_proj"]))
    top = get_peft_model(
        llama(), ShareLoraConfig(r=8, share="none", target_modules=["q_proj"], layers_to_transform=[L - 1])
    )
    shape, load = shape_of(top), Workload(B, T, 4)
    whole, last = (peak(shape, model.base_model.plans["default"], load, False) for model in (everywhere, top))
    assert whole - last > (L - 1) * base_layer(shape, load)
    assert saved_bytes(everywhere, torch.tensor(0)) - saved_bytes(top, torch.tensor(0)) == pytest.approx(
        whole - last, rel=0.05
    )


def test_shapes_are_read_from_the_configuration() -> None:
    shape = shape_of(llama())
    assert (shape.layers, shape.hidden, shape.mlp, shape.vocab, shape.gated) == (L, 64, 176, 512, True)
    assert (shape_of(gpt2()).mlp, shape_of(gpt2()).activation_tensors, shape_of(gpt2()).gated) == (256, 4, False)
    assert (shape_of(roberta()).vocab, shape_of(roberta()).activation_tensors) == (0, 1)


@pytest.mark.parametrize("family", SAME_INPUT, ids="-".join)
def test_modules_that_read_one_input_keep_it_once(family: tuple[str, ...]) -> None:
    shape, load = shape_of(llama()), Workload(B, T, 4)

    def kept(*names: str) -> int:
        sites = [Site(f"layers.0.{name}", name, 0, 64, 32) for name in names]
        return adapter_layer(SharingPlan.build(sites, SharingRule(), 8).entries, shape, load)

    together, apart = kept(*family), sum(kept(name) for name in family)
    # Besides the input once, the As of one input are stacked, which copies them.
    stacked = 4 * 8 * 64 * len(family)
    assert apart - together == (len(family) - 1) * B * T * 64 * 4 - stacked


@pytest.mark.parametrize("states", [8, 32])
def test_a_model_without_heads_is_estimated_by_its_states(states: int) -> None:
    config = AutoConfig.for_model(
        "mamba", hidden_size=64, num_hidden_layers=2, state_size=states, vocab_size=512, use_cache=False
    )
    base = AutoModelForCausalLM.from_config(config)
    shape = shape_of(base)
    assert (shape.heads, shape.attention, shape.key_value, shape.mlp) == (0, 0, 0, 128)
    model = get_peft_model(base, ShareLoraConfig(r=8, share="a", target_modules=["in_proj"])).train()
    load, entries = Workload(B, T, 4), model.base_model.plans["default"].entries
    layers = [[entry for entry in entries if entry.site.layer == layer] for layer in range(2)]
    formula = sum(base_layer(shape, load) + adapter_layer(entries, shape, load) for entries in layers)
    measured = saved_bytes(model, torch.tensor(0)) - B * T * shape.vocab * 4
    assert formula == pytest.approx(measured, rel=0.25)
    plan = model.base_model.plans["default"]
    assert (
        estimate(meta_of(config), plan, bits=32, dtype="fp32", batch=B, tokens=T, checkpointing=False).total > measured
    )


def meta_of(config: PretrainedConfig) -> nn.Module:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def test_where_layers_differ_the_widest_attention_counts() -> None:
    class Layers:
        hidden_size = 64
        per_layer_config = (SimpleNamespace(num_attention_heads=2), SimpleNamespace(num_attention_heads=8))

        @property
        def num_attention_heads(self) -> int:
            raise RuntimeError("it differs from layer to layer")

    assert heads_of(Layers()) == Heads(8, 8, 8)
    assert heads_of(SimpleNamespace(hidden_size=64)) == Heads(0, 0, 0)
