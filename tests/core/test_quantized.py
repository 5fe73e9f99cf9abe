"""Quantised bases of bitsandbytes, on the CPU: evaluate, train, merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from toy_models import QKV, adapted, bank, checkpoint_layers, gradients, language_batch, llama, logits, shake, train
from transformers import BitsAndBytesConfig, LlamaForCausalLM

from sharelora import UserError
from sharelora.tuner import layer as layers
from sharelora.tuner.quantization import protect_4bit

bnb = pytest.importorskip("bitsandbytes")

pytestmark = [
    # PEFT says that merging into quantised weights rounds; here the rounding is measured.
    pytest.mark.filterwarnings("ignore:Merge lora module to .-bit linear:UserWarning"),
    # PEFT's prepare_model_for_kbit_training calls it by the old name.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
]

TIED: dict[str, Any] = {"share": "a", "share_across": "modules", "target_modules": QKV}
ALL: dict[str, Any] = {"share": "ab", "target_modules": "all-linear"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    llama(2, hidden=64).save_pretrained(path)
    return path


def quantised(folder: Path, bits: int = 4, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """A base as a user gets it from transformers."""
    if bits == 8:
        settings = BitsAndBytesConfig(load_in_8bit=True)
    else:
        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return LlamaForCausalLM.from_pretrained(folder, quantization_config=settings, dtype=dtype)


def dense(base: LlamaForCausalLM) -> LlamaForCausalLM:
    """The same base with its weights written out."""
    plain = llama(2, hidden=64)
    for path, module in plain.named_modules():
        if isinstance(module, nn.Linear):
            source = base.get_submodule(path)
            weight = dequantize_module_weight(source) if hasattr(source, "quant_state") else source.weight
            module.weight.data = weight.data.float()
        elif hasattr(module, "weight"):
            module.weight.data = base.get_submodule(path).weight.data.float()
    return plain


def quantised_layers(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, bnb.nn.Linear4bit | bnb.nn.Linear8bitLt)]


def merging_error(model: PeftModel) -> float:
    """Largest distance of a merged layer from the sum it should hold; NF4 itself rounds by 0.09."""
    wanted = {}
    for entry in model.base_model.plans["default"].entries:
        layer = model.base_model.model.get_submodule(entry.site.path)
        wanted[entry.site.path] = dequantize_module_weight(layer.base_layer) + layer.get_delta_weight("default")
    merged = model.merge_and_unload()
    return max(distance(dequantize_module_weight(merged.get_submodule(p)), w.detach()) for p, w in wanted.items())


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("settings", [TIED, ALL], ids=str)
def test_4bit_equals_its_dequantised_weights(folder: Path, settings: dict[str, Any]) -> None:
    base = quantised(folder)
    reference = shake(adapted(dense(base), **settings))
    model = shake(adapted(base, **settings))
    kinds = {type(m) for m in model.modules() if isinstance(m, layers.ShareLayer)}
    assert kinds == {layers.ShareLinear4bit}
    (loss, found), (expected, grads) = gradients(model, language_batch()), gradients(reference, language_batch())
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert found.keys() == grads.keys() and len(found) == len(bank(model))
    for name, value in grads.items():
        assert distance(found[name], value) < 1e-4, name


@pytest.mark.parametrize("settings", [TIED, ALL], ids=str)
def test_evaluate_then_train_then_merge_on_4_bits(folder: Path, settings: dict[str, Any]) -> None:
    """On CPUs with AVX512-BF16, bitsandbytes repacks weights in the first evaluation, after which nothing trains."""
    model = adapted(quantised(folder), **settings)
    before = [layer.weight.data.clone() for layer in quantised_layers(model)]
    first = logits(model)
    assert all(torch.equal(a.weight.data, b) for a, b in zip(quantised_layers(model), before, strict=True))
    _, found = gradients(shake(model).train(), language_batch())
    assert found.keys() == {f"base_model.lora_bank.default.{name}" for name in bank(model)}
    assert all(value.abs().max() > 0 for value in found.values())
    losses = train(model, language_batch(), 5)
    assert losses[-1] < losses[0]
    assert distance(logits(model), first) > 0.1
    assert 0.01 < merging_error(model) < 0.12


def test_merging_errs_as_little_after_an_evaluation_as_before(folder: Path) -> None:
    errors = []
    for evaluated in (False, True):
        model = shake(adapted(quantised(folder), **ALL))
        if evaluated:
            logits(model)
        errors.append(merging_error(model))
    assert errors[0] == errors[1] < 0.12


def test_the_guard_covers_every_4bit_layer_and_nothing_else(folder: Path) -> None:
    base = quantised(folder)
    for layer in quantised_layers(base):
        layer.support_avx512bf16_for_cpu = True
    adapted(base, share="a", target_modules=["q_proj"])
    assert [layer.support_avx512bf16_for_cpu for layer in quantised_layers(base)] == [False] * 14
    assert protect_4bit(base) == 14 and protect_4bit(llama()) == 0


def test_a_base_that_was_repacked_already_is_refused(folder: Path) -> None:
    base = quantised(folder)
    # What bitsandbytes leaves behind after a first evaluation on such a CPU.
    quantised_layers(base)[3].weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(UserError, match=r"in eval mode before it was adapted.* load it again and adapt it"):
        adapted(base, **ALL)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_8bit_evaluates_trains_and_merges(folder: Path, dropout: float) -> None:
    model = adapted(quantised(folder, bits=8), **ALL, lora_dropout=dropout)
    assert {type(m) for m in model.modules() if isinstance(m, layers.ShareLayer)} == {layers.ShareLinear8bit}
    logits(model)
    _, found = gradients(shake(model).train(), language_batch())
    assert len(found) == len(bank(model)) and all(value.abs().max() > 0 for value in found.values())
    losses = train(model, language_batch(), 8)
    assert losses[-1] < losses[0]
    expected = logits(model)
    assert distance(logits(model.merge_and_unload()).float(), expected.float()) < 0.25


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_sharing_it_is_peft_lora(folder: Path, bits: int, dtype: torch.dtype) -> None:
    ours = adapted(quantised(folder, bits, dtype), share="none")
    torch.manual_seed(0)
    theirs = get_peft_model(quantised(folder, bits, dtype), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    protect_4bit(theirs)
    for entry in ours.base_model.plans["default"].entries:
        layer = theirs.base_model.model.get_submodule(entry.site.path)
        assert torch.equal(bank(ours)[entry.a], layer.lora_A["default"].weight)
        layer.lora_B["default"].weight.data.normal_()
        bank(ours)[entry.b].data.copy_(layer.lora_B["default"].weight.data)
    (loss, mine), (expected, other) = gradients(ours, language_batch()), gradients(theirs, language_batch())
    loose = {"rtol": 1e-5, "atol": 1e-5} if (bits, dtype) == (4, torch.float32) else {"rtol": 0.02, "atol": 0.02}
    torch.testing.assert_close(loss, expected, **loose)
    pairs = [
        (
            mine[f"base_model.lora_bank.default.{name}"],
            other[f"base_model.model.{e.site.path}.lora_{side}.default.weight"],
        )
        for e in ours.base_model.plans["default"].entries
        for side, name in (("A", e.a), ("B", e.b))
    ]
    assert max(distance(a, b) for a, b in pairs) < (1e-4 if loose["rtol"] == 1e-5 else 0.1)


def test_checkpointed_and_prepared_as_for_qlora(folder: Path) -> None:
    model = shake(adapted(quantised(folder, dtype=torch.bfloat16), **TIED)).train()
    loss, plain = gradients(model, language_batch())
    checkpoint_layers(model)
    again, found = gradients(model, language_batch())
    assert torch.equal(loss, again)
    for name, value in plain.items():
        assert distance(found[name], value) < 1e-3
    base = prepare_model_for_kbit_training(
        quantised(folder, dtype=torch.bfloat16), gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    model = adapted(base, **TIED)
    logits(model)
    losses = train(model.train(), language_batch(), 5)
    assert losses[-1] < losses[0]


def test_an_adapter_of_a_quantised_base_is_saved_and_says_so(folder: Path, tmp_path: Path) -> None:
    for bits, name in ((4, "nf4"), (8, "int8")):
        model = shake(adapted(quantised(folder, bits), **ALL))
        assert model.peft_config["default"].trained_on == name
        model.save_pretrained(tmp_path / name)
        again = PeftModel.from_pretrained(quantised(folder, bits), tmp_path / name)
        assert again.peft_config["default"].trained_on == name
        assert torch.equal(logits(again), logits(model))
    plain = PeftModel.from_pretrained(llama(2, hidden=64), tmp_path / "nf4")
    assert plain.peft_config["default"].trained_on == "nf4"


def test_dora_and_8bit_optimizers_work_on_4_bits(folder: Path) -> None:
    model = adapted(quantised(folder), share="a", use_dora=True)
    logits(model)
    optimizer = bnb.optim.AdamW8bit([p for p in model.parameters() if p.requires_grad], lr=1e-2, min_8bit_size=16)
    losses = []
    for _ in range(4):
        loss = model(**language_batch()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
