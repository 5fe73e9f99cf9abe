"""An adapted model in use: precisions, checkpointing, compiling, copying, generating."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType
from toy_models import (
    QKV,
    adapted,
    bank,
    checkpoint_layers,
    class_batch,
    gpt2,
    gradients,
    language_batch,
    llama,
    logits,
    roberta,
    shake,
    tokens,
    train,
)

from sharelora import ShareLoraConfig, ShareLoraModel

TIED = {"share": "a", "share_across": "modules", "target_modules": QKV}


def test_peft_knows_the_method() -> None:
    """PEFT offers no way to add a method: when a new version changes its enum, this fails first."""
    assert PeftType("SHARELORA") is PeftType.SHARELORA is PeftType["SHARELORA"]
    assert PeftType.SHARELORA.value == PeftType.SHARELORA.name == PeftType.SHARELORA == "SHARELORA"
    assert list(PeftType).count(PeftType.SHARELORA) == 1 and "SHARELORA" in PeftType.__members__
    assert pickle.loads(pickle.dumps(PeftType.SHARELORA)) is PeftType.SHARELORA
    assert copy.deepcopy(PeftType.SHARELORA) is PeftType.SHARELORA and PeftType.SHARELORA != PeftType.LORA
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.SHARELORA] is ShareLoraConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[PeftType.SHARELORA] is ShareLoraModel
    assert PEFT_TYPE_TO_PREFIX_MAPPING[PeftType.SHARELORA] == "lora_"
    for hook in ("_pre_injection_hook", "_create_and_replace", "_create_new_module", "_cast_adapter_dtype",
                 "_prepare_adapter_config", "_check_target_module_exists", "_remap_adapter_state_dict_for_load",
                 "delete_adapter", "inject_adapter", "add_weighted_adapter", "_enable_peft_forward_hooks"):  # fmt: skip
        assert callable(getattr(ShareLoraModel.__mro__[1], hook)), f"PEFT no longer has LoraModel.{hook}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_bases_train_matrices_in_fp32(dtype: torch.dtype) -> None:
    model = shake(adapted(llama().to(dtype), share="ab", target_modules="all-linear"))
    assert {value.dtype for value in bank(model).values()} == {torch.float32}
    exact = shake(adapted(llama().to(dtype).float(), share="ab", target_modules="all-linear"))
    torch.testing.assert_close(logits(model).float(), logits(exact), rtol=0.05, atol=0.1)
    assert logits(model).dtype is dtype
    _, found = gradients(model, language_batch())
    assert {value.dtype for value in found.values()} == {torch.float32} and len(found) == len(bank(model))
    losses = train(model, language_batch(), 5)
    assert losses[-1] < losses[0]


def test_matrices_stay_in_bf16_if_asked() -> None:
    from peft import get_peft_model

    config = ShareLoraConfig(r=4, share="a", target_modules=["q_proj"])
    model = get_peft_model(llama().to(torch.bfloat16), config, autocast_adapter_dtype=False)
    assert {value.dtype for value in bank(model).values()} == {torch.bfloat16}
    assert len(gradients(model, language_batch())[1]) == len(bank(model))


@pytest.mark.parametrize("settings", [{"share": "a"}, TIED, {"share": "ab", "target_modules": "all-linear"}], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_changes_no_gradient(settings: dict[str, Any], dropout: float) -> None:
    model = shake(adapted(llama(), lora_dropout=dropout, **settings)).train()
    torch.manual_seed(3)
    loss, plain = gradients(model, language_batch())
    checkpoint_layers(model)
    torch.manual_seed(3)
    again, found = gradients(model, language_batch())
    assert torch.equal(loss, again) and plain.keys() == found.keys()
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-8)


def test_checkpointing_where_siblings_read_the_layers_own_input() -> None:
    """RoBERTa's q, k, v read the very tensor that the checkpoint passes again."""
    model = shake(adapted(roberta(), target_modules=["query", "key", "value"], share="a", share_across="both")).train()
    loss, plain = gradients(model, class_batch())
    checkpoint_layers(model)
    for _ in range(2):
        again, found = gradients(model, class_batch())
        assert torch.equal(loss, again)
        for name, value in plain.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-8)


def test_one_process_may_use_reentrant_checkpointing() -> None:
    model = shake(adapted(llama(), share="a")).train()
    _, plain = gradients(model, language_batch())
    checkpoint_layers(model, reentrant=True)
    _, found = gradients(model, language_batch())
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_compiled_models_have_the_same_gradients(backend: str) -> None:
    torch.compiler.reset()
    model = shake(adapted(llama(1, hidden=16), share="ab", share_across="both", target_modules=QKV))
    loss, plain = gradients(model, language_batch())
    compiled = torch.compile(model, backend=backend)
    model.zero_grad()
    again = compiled(**language_batch()).loss
    again.backward()
    torch.testing.assert_close(again, loss)
    for name, value in model.named_parameters():
        if value.requires_grad:
            torch.testing.assert_close(value.grad, plain[name], rtol=1e-4, atol=1e-7)


def test_autocast_computes_in_bf16_and_trains_in_fp32() -> None:
    model = shake(adapted(llama(), share="a", target_modules=QKV))
    (exact, plain) = gradients(model, language_batch())
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 32)).dtype is torch.bfloat16
        loss, found = gradients(model, language_batch())
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0.0)
    for name, value in plain.items():
        assert found[name].dtype is torch.float32
        assert (found[name] - value).norm() < 0.05 * value.norm()


def test_autocast_and_compiling_agree() -> None:
    torch.compiler.reset()
    model = shake(adapted(llama(1, hidden=16), share="b", share_across="both", target_modules=QKV))
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(**language_batch()).loss
        found = torch.compile(model, backend="eager")(**language_batch()).loss
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.0)


def pickled(model: PeftModel) -> PeftModel:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_copies_share_among_themselves_only(copied: Any) -> None:
    model = shake(adapted(llama(), **TIED, lora_dropout=0.1))
    gradients(model, language_batch())
    twin = copied(model)
    assert torch.equal(logits(twin), logits(model))
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}
    before = logits(model)
    losses = train(twin, language_batch(), 3)
    assert losses[-1] < losses[0] and torch.equal(logits(model), before)
    layers = twin.base_model.model.model.layers
    assert layers[1].self_attn.q_proj.lora_A["default"].weight is layers[1].self_attn.v_proj.lora_A["default"].weight
    assert layers[1].self_attn.q_proj.lora_A["default"].weight is bank(twin)["lora_A/*/1/4x32"]


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_generation_equals_that_of_the_merged_model(model: str) -> None:
    base, targets = (llama(), QKV) if model == "llama" else (gpt2(), ["c_attn"])
    ours = shake(adapted(base, share="ab", share_across="both", target_modules=targets)).eval()
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    mask = torch.ones(3, 5, dtype=torch.long)
    found = ours.generate(input_ids=tokens(3, 5), attention_mask=mask, **settings)
    assert found.shape == (3, 13)
    beams = ours.generate(input_ids=tokens(3, 5), attention_mask=mask, num_beams=3, **settings)
    merged = ours.merge_and_unload()
    assert torch.equal(merged.generate(input_ids=tokens(3, 5), attention_mask=mask, **settings), found)
    assert torch.equal(merged.generate(input_ids=tokens(3, 5), attention_mask=mask, num_beams=3, **settings), beams)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inference_before_training_does_no_harm(mode: Any) -> None:
    model = shake(adapted(llama(), **TIED))
    _, plain = gradients(model, language_batch())
    with mode():
        model.eval()(**language_batch())
    _, found = gradients(model.train(), language_batch())
    assert all(torch.equal(found[name], value) for name, value in plain.items())


def test_moving_and_casting_the_model_moves_the_bank() -> None:
    model = shake(adapted(llama(), **TIED)).to(torch.float64)
    assert {value.dtype for value in bank(model).values()} == {torch.float64}
    assert logits(model).dtype is torch.float64
    assert {value.device.type for value in model.to("meta").base_model.lora_bank.parameters()} == {"meta"}
