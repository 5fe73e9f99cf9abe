"""Variants of LoRA: those that sharing allows equal PEFT's, the others say why not."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import BdLoraConfig, KasaConfig, LoraConfig, MontecloraConfig, PeftModel, VeloraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from torch import nn
from toy_models import (
    QV,
    adapted,
    bank,
    class_batch,
    gradients,
    language_batch,
    llama,
    logits,
    phi3,
    roberta,
    shake,
    tokens,
    train,
)

from sharelora import ShareLoraConfig, UserError
from sharelora.convert.exporting import export_lora

FITTED = ["pissa", "pissa_niter_4", "olora", "orthogonal", "mica"]
# What each variant keeps for a layer besides its matrices, as a part of a parameter's or buffer's name.
BESIDE: dict[str, tuple[dict[str, Any], str]] = {
    "lora_bias": ({"lora_bias": True}, "lora_B.default.bias"),
    "alora": ({"alora_invocation_tokens": [3], "task_type": "CAUSAL_LM"}, ""),
    "velora": ({"velora_config": VeloraConfig(num_groups=4)}, "lora_velora_embed.default"),
    "monteclora": ({"monteclora_config": MontecloraConfig(num_samples=2)}, "lora_monteclora_sampler.default"),
    "bdlora": (
        {"use_bdlora": BdLoraConfig(target_modules_bd_a=["q_proj"], target_modules_bd_b=["v_proj"], nblocks=2)},
        "",
    ),
    "kasa": ({"kasa_config": KasaConfig()}, "lora_diag.default"),
}
LOFTQ = {"loftq_bits": 4, "loftq_iter": 1}


def peft_lora(base: nn.Module, **settings: Any) -> PeftModel:
    torch.manual_seed(0)
    return get_peft_model(base, LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], **settings}))


@pytest.mark.parametrize("init", FITTED)
def test_fitted_initialisations_without_sharing_are_those_of_peft(init: str) -> None:
    ours = adapted(llama(), share="none", init_lora_weights=init)
    theirs = peft_lora(llama(), init_lora_weights=init)
    for entry in ours.base_model.plans["default"].entries:
        layer = theirs.base_model.model.get_submodule(entry.site.path)
        torch.testing.assert_close(bank(ours)[entry.a].data, layer.lora_A["default"].weight.data)
        torch.testing.assert_close(bank(ours)[entry.b].data, layer.lora_B["default"].weight.data)
        mine = ours.base_model.model.get_submodule(entry.site.path)
        torch.testing.assert_close(mine.base_layer.weight, layer.base_layer.weight)
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=1e-5, atol=1e-6)
    assert train(ours, language_batch(), 3) == pytest.approx(train(theirs, language_batch(), 3), abs=1e-6)


@pytest.mark.parametrize("init", [*FITTED, "loftq"])
@pytest.mark.parametrize(
    "sharing", [{"share": "a"}, {"share": "b"}, {"share": "none", "enable_lora": {"qkv_proj": [True] * 3}}]
)
def test_fitted_initialisations_cannot_be_shared(init: str, sharing: dict[str, Any]) -> None:
    base, name = (phi3(), "qkv_proj") if "enable_lora" in sharing else (llama(), "q_proj")
    sharing = {**sharing, "target_modules": [name]}
    weight = getattr(base.model.layers[0].self_attn, name).weight.detach().clone()
    with pytest.raises(UserError, match=f"init_lora_weights='{init}' computes A and B of each layer for each other"):
        adapted(base, **sharing, init_lora_weights=init, loftq_config=LOFTQ if init == "loftq" else {})
    assert torch.equal(getattr(base.model.layers[0].self_attn, name).weight, weight)


@pytest.mark.parametrize("share", ["none", "a", "ab"])
def test_dora_equals_peft_dora(share: str) -> None:
    ours = shake(adapted(llama(), share=share, use_dora=True))
    theirs = peft_lora(llama(), use_dora=True)
    mine, other = ours.base_model.model, theirs.base_model.model
    for entry in ours.base_model.plans["default"].entries:
        ours_there, theirs_there = mine.get_submodule(entry.site.path), other.get_submodule(entry.site.path)
        theirs_there.lora_A["default"].weight.data = bank(ours)[entry.a].data.clone()
        theirs_there.lora_B["default"].weight.data = bank(ours)[entry.b].data.clone()
        theirs_there.lora_magnitude_vector["default"].weight.data = ours_there.lora_magnitude_vector[
            "default"
        ].weight.data.clone()
    (loss, found), (expected, original) = gradients(ours, language_batch()), gradients(theirs, language_batch())
    torch.testing.assert_close(loss, expected)
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_magnitude_vector.default.weight"
    torch.testing.assert_close(found[name], original[name])
    if share == "none":
        a = original["base_model.model.model.layers.1.self_attn.q_proj.lora_A.default.weight"]
        torch.testing.assert_close(found["base_model.lora_bank.default.lora_A/self_attn/q_proj/1/4x32"], a)
    assert len(found) == len(ours.base_model.plans["default"].matrices) + 6


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_dora_is_saved_and_merged(tmp_path: Path, low_cpu_mem_usage: bool) -> None:
    model = shake(adapted(llama(), share="ab", use_dora=True))
    expected = logits(model)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(llama(), tmp_path, is_trainable=True, low_cpu_mem_usage=low_cpu_mem_usage)
    assert torch.equal(logits(again), expected)
    assert again.get_nb_trainable_parameters()[0] == model.get_nb_trainable_parameters()[0]
    torch.testing.assert_close(logits(again.merge_and_unload()), expected, rtol=1e-4, atol=1e-5)


def test_dora_begins_as_the_base_even_if_b_does_not_begin_at_zero() -> None:
    for share in ("none", "ab"):
        model = adapted(llama(), share=share, use_dora=True, init_lora_weights=False)
        for entry in model.base_model.plans["default"].entries:
            layer = model.base_model.model.get_submodule(entry.site.path)
            weight = layer.base_layer.weight + layer.get_delta_weight("default")
            torch.testing.assert_close(layer.lora_magnitude_vector["default"].weight, weight.norm(dim=1))


@pytest.mark.parametrize("variant", BESIDE)
@pytest.mark.parametrize("share", ["none", "a", "ab"])
@pytest.mark.filterwarnings("ignore:.*has no bias")
def test_variants_with_more_than_matrices_are_those_of_peft(share: str, variant: str, tmp_path: Path) -> None:
    settings, beside = BESIDE[variant]
    ours, theirs = shake(adapted(llama(), share=share, **settings)), peft_lora(llama(), **settings)
    mine, other = dict(ours.base_model.model.named_modules()), dict(theirs.base_model.model.named_modules())
    for entry in ours.base_model.plans["default"].entries:
        layer, twin = mine[entry.site.path], other[entry.site.path]
        state = {name: value for name, value in layer.state_dict().items() if name in twin.state_dict()}
        assert any(beside in name for name in state)
        twin.load_state_dict(state, strict=False)
        twin.lora_A["default"].weight.data = bank(ours)[entry.a].data.clone()
        twin.lora_B["default"].weight.data = bank(ours)[entry.b].data.clone()
    ours.eval(), theirs.eval()
    expected = logits(theirs, input_ids=tokens())
    torch.testing.assert_close(logits(ours, input_ids=tokens()), expected, rtol=1e-5, atol=1e-6)
    with ours.disable_adapter():
        assert (logits(ours, input_ids=tokens()) - expected).abs().max() > 1e-3
    ours.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(llama(), tmp_path).eval()
    torch.testing.assert_close(logits(again, input_ids=tokens()), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", ["velora", "monteclora", "kasa", "lora_bias", "bdlora"])
@pytest.mark.filterwarnings("ignore:.*has no bias")
def test_variants_with_more_than_matrices_train_shared(variant: str) -> None:
    model = adapted(llama(), share="ab", **BESIDE[variant][0])
    losses = train(model, language_batch(), 8)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("variant", BESIDE)
@pytest.mark.filterwarnings("ignore:.*has no bias")
def test_what_is_more_than_matrices_is_not_exported_as_if_it_were_not_there(variant: str, tmp_path: Path) -> None:
    adapted(llama(), share="a", **BESIDE[variant][0]).save_pretrained(str(tmp_path / "adapter"))
    field = next(iter(BESIDE[variant][0]))
    with pytest.raises(UserError, match=f"has {field}: .*exports and merges of files know A and B of layers alone"):
        export_lora(tmp_path / "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    model = adapted(llama(), r=9, lora_alpha=6, use_rslora=True, share="ab")
    assert model.base_model.model.model.layers[2].self_attn.v_proj.scaling["default"] == pytest.approx(2.0)


def test_loraplus_gives_b_the_high_rate() -> None:
    model = adapted(llama(), share="ab")
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16.0, weight_decay=0.0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates == {id(p): 1.6e-2 if name.startswith("lora_B") else 1e-3 for name, p in bank(model).items()}


def test_trained_biases_are_trained() -> None:
    model = adapted(roberta(), share="a", target_modules=["query", "value"], bias="lora_only")
    names = {name for name, value in model.named_parameters() if value.requires_grad and "bank" not in name}
    assert len(names) == 4 and all(name.endswith("base_layer.bias") for name in names)
    _, found = gradients(shake(model), class_batch())
    assert names <= found.keys() and all(found[name].abs().max() > 0 for name in names)


def test_a_classification_head_is_saved_and_reloaded(tmp_path: Path) -> None:
    model = adapted(roberta(), share="ab", target_modules=["query", "value"], task_type="SEQ_CLS")
    train(model, class_batch(), 3)
    expected = logits(model, input_ids=tokens(4))
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(roberta(), tmp_path, is_trainable=True)
    assert torch.equal(logits(again, input_ids=tokens(4)), expected)
    assert again.get_nb_trainable_parameters() == model.get_nb_trainable_parameters()
    head = again.base_model.model.classifier
    assert head.modules_to_save["default"].dense.weight.requires_grad
    assert not torch.equal(head.modules_to_save["default"].dense.weight, head.original_module.dense.weight)


def test_trained_tokens_go_along(tmp_path: Path) -> None:
    model = adapted(llama(), share="a", trainable_token_indices={"embed_tokens": [3, 5]})
    train(model, {"input_ids": torch.tensor([[3, 5, 7]]), "labels": torch.tensor([[3, 5, 7]])}, 3)
    expected = logits(model, input_ids=torch.tensor([[3, 5, 7]]))
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(llama(), tmp_path)
    assert torch.equal(logits(again, input_ids=torch.tensor([[3, 5, 7]])), expected)


TIES: list[dict[str, Any]] = [{"modules_to_save": ["embed_tokens"]}, {"trainable_token_indices": [1, 5]}]


@pytest.mark.filterwarnings("ignore:You have requested `ensure_weight_tying`, but no tied modules are added")
@pytest.mark.parametrize("share", ["none", "a", "ab"])
@pytest.mark.parametrize("ties", TIES)
def test_what_is_trained_of_tied_embeddings_is_tied_as_in_peft(
    tmp_path: Path, share: str, ties: dict[str, Any]
) -> None:
    settings = {**ties, "ensure_weight_tying": True}
    ours = shake(adapted(llama(tie_word_embeddings=True), share=share, **settings))
    theirs = peft_lora(llama(tie_word_embeddings=True), **settings)
    for entry in ours.base_model.plans["default"].entries:
        layer = theirs.base_model.model.get_submodule(entry.site.path)
        layer.lora_A["default"].weight.data = bank(ours)[entry.a].data.clone()
        layer.lora_B["default"].weight.data = bank(ours)[entry.b].data.clone()
    (loss, found), (expected, original) = gradients(ours, language_batch()), gradients(theirs, language_batch())
    torch.testing.assert_close(loss, expected)
    (name,) = (name for name in original if "modules_to_save" in name or "trainable_tokens" in name)
    assert original[name].abs().max() > 0
    torch.testing.assert_close(found[name], original[name])
    train(ours, language_batch(), 3)
    after = logits(ours)
    ours.save_pretrained(tmp_path, save_embedding_layers=False)
    assert torch.equal(logits(PeftModel.from_pretrained(llama(tie_word_embeddings=True), tmp_path)), after)
    with pytest.raises(UserError, match="has ensure_weight_tying: a head that uses what was trained"):
        export_lora(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("targets", [["embed_tokens", "q_proj"], r".*(embed_tokens|q_proj)"])
def test_adapters_of_tied_embeddings_are_not_tied(targets: Any) -> None:
    settings: dict[str, Any] = {"target_modules": targets, "ensure_weight_tying": True}
    with pytest.raises(UserError, match="ensure_weight_tying does not go with ShareLoRA where embeddings are in"):
        adapted(llama(tie_word_embeddings=True), share="none", **settings)
    with pytest.warns(UserWarning, match="no tied modules were found"):
        model = adapted(llama(), share="none", **settings)
    assert "model.embed_tokens" in model.base_model.plans["default"].by_path


def test_mica_trains_the_a_of_the_active_adapter_alone() -> None:
    model = adapted(llama(), share="none", init_lora_weights="mica", target_modules=["q_proj"])
    model.add_adapter("other", ShareLoraConfig(r=4, share="none", init_lora_weights="mica", target_modules=QV))
    for name in ("other", "default", "other"):
        model.set_adapter(name)
        trained = {n for n, matrix in model.named_parameters() if matrix.requires_grad}
        assert trained == {f"base_model.lora_bank.{name}.{n}" for n in bank(model, name) if n.startswith("lora_A")}
    model.set_adapter("default")
    model.delete_adapter("other")
    model.add_adapter("other", ShareLoraConfig(r=4, share="none", target_modules=QV))
    model.set_adapter("other")
    assert all(matrix.requires_grad for matrix in bank(model, "other").values())


def test_weights_in_another_type_are_taken_in_that_of_the_input() -> None:
    def cast(dtype: torch.dtype) -> Any:
        def hook(module: nn.Module, *_: Any) -> None:
            for weight in module.parameters(recurse=False):
                weight.data = weight.data.to(dtype)

        return hook

    torch.manual_seed(0)
    model = adapted(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), share="none", target_modules=["0"])
    shake(model).half()
    x = torch.randn(3, 8)
    expected = copy.deepcopy(model).float()(x)
    # Weights that are kept in half precision and widened for each use.
    for module in [module for module in model.modules() if isinstance(module, nn.Linear)]:
        module.register_forward_pre_hook(cast(torch.float32))
        module.register_forward_hook(cast(torch.float16))
    found = model(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
