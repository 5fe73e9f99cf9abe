"""Adapters of embeddings and convolutions as files: merged, exported, imported, compressed, inspected."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from other_layers import bank, built, copy_matrices, ids, ours, shaken, theirs
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from toy_models import llama, tokens

from sharelora import ShareLoraConfig, UserError
from sharelora.cli.commands import main
from sharelora.convert import compress, export_lora, export_loralib, import_lora, inspect, merge
from sharelora.plan.rule import SharingRule

pytestmark = [
    # PEFT says so itself, and saves the frozen weight of an embedding beside its adapter.
    pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True` and a tied layer"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`"),
]


def vit() -> nn.Module:
    """A tiny vision transformer: patches are a Conv2d."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.ViTConfig(image_size=16, patch_size=4, num_labels=5, **sizes)
    return transformers.ViTForImageClassification(config)


def wav2vec2() -> nn.Module:
    """A tiny speech model: its features are four Conv1d, of which the last three have one shape."""
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        vocab_size=16,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=(16, 16, 16, 16),
        conv_stride=(2, 2, 2, 2),
        conv_kernel=(3, 3, 3, 3),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        **{name: 0.0 for name in ("hidden_dropout", "attention_dropout", "feat_proj_dropout", "layerdrop")},
    )
    return transformers.Wav2Vec2ForCTC(config)


def sound() -> dict[str, Tensor]:
    return {"input_values": torch.randn(2, 400, generator=torch.Generator().manual_seed(1))}


def image() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))}


def text() -> dict[str, Tensor]:
    return {"input_ids": tokens()}


@dataclass(frozen=True)
class Case:
    """A base, what is adapted in it, and what it reads."""

    base: Callable[[], nn.Module]
    targets: list[str]
    inputs: Callable[[], dict[str, Tensor]]
    settings: dict[str, Any] = field(default_factory=dict)


CASES = {
    "embedding": Case(llama, ["embed_tokens", "q_proj"], text),
    "embedding dora": Case(llama, ["embed_tokens", "q_proj"], text, {"use_dora": True}),
    "both embeddings": Case(llama, ["embed_tokens", "lm_head"], text, {"share": "none", "use_rslora": True}),
    "tied": Case(lambda: llama(tie_word_embeddings=True), ["embed_tokens", "v_proj"], text),
    "tied head": Case(lambda: llama(tie_word_embeddings=True), ["embed_tokens", "lm_head", "v_proj"], text),
    "conv1d": Case(wav2vec2, ["conv_layers.1.conv", "conv_layers.2.conv", "conv_layers.3.conv"], sound),
    "conv1d dora": Case(wav2vec2, [f"conv_layers.{i}.conv" for i in range(4)], sound, {"use_dora": True}),
    "conv2d": Case(vit, ["projection", "q_proj"], image, {"rank_pattern": {"projection": 2}}),
    "conv2d dora": Case(vit, ["projection", "q_proj"], image, {"use_dora": True, "alpha_pattern": {"projection": 3}}),
}


def saved(tmp_path: Path, case: str) -> tuple[Path, Path, Tensor]:
    """Save a base and an adapter with values of its own; return the folders and the logits."""
    made = CASES[case]
    base = made.base()
    base.save_pretrained(tmp_path / "base")
    torch.manual_seed(3)
    settings = {"r": 4, "lora_alpha": 6, "target_modules": made.targets, "share": "a", **made.settings}
    model = shaken(get_peft_model(base, ShareLoraConfig(**settings)).eval())
    model.save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "base", tmp_path / "adapter", logits(model, case)


@torch.no_grad()
def logits(model: Any, case: str) -> Tensor:
    found: Tensor = model.eval()(**CASES[case].inputs()).logits
    return found


def loaded(base: Path, case: str) -> Any:
    return type(CASES[case].base()).from_pretrained(base)


@pytest.mark.parametrize("case", CASES)
def test_the_merged_model_computes_the_same(tmp_path: Path, case: str) -> None:
    base, adapter, expected = saved(tmp_path, case)
    assert not torch.allclose(logits(loaded(base, case), case), expected, atol=1e-2)
    done = merge(base, adapter, tmp_path / "merged")
    assert done.changed == len(inspect(adapter).plan.by_path) and done.note is None
    torch.testing.assert_close(logits(loaded(tmp_path / "merged", case), case), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_stock_peft_reads_the_export_and_it_can_be_imported(tmp_path: Path, case: str) -> None:
    base, adapter, expected = saved(tmp_path, case)
    plan = inspect(adapter).plan
    done = export_lora(adapter, tmp_path / "plain")
    assert done.modules == len(plan.by_path)
    assert json.loads((tmp_path / "plain/adapter_config.json").read_text())["peft_type"] == "LORA"
    stock = PeftModel.from_pretrained(loaded(base, case), str(tmp_path / "plain"))
    torch.testing.assert_close(logits(stock, case), expected, rtol=1e-4, atol=1e-5)
    # The scaling is in B now, so B is shared no more where it was, and A still is.
    share = CASES[case].settings.get("share", "a")
    import_lora(tmp_path / "plain", tmp_path / "again", SharingRule(share), base=base)
    again = PeftModel.from_pretrained(loaded(base, case), str(tmp_path / "again"))
    torch.testing.assert_close(logits(again, case), expected, rtol=1e-4, atol=1e-5)
    assert again.base_model.plans["default"].by_path.keys() == plan.by_path.keys()


@pytest.mark.parametrize("case", ["embedding", "conv1d", "conv2d"])
def test_a_plain_lora_is_compressed(tmp_path: Path, case: str) -> None:
    base, adapter, expected = saved(tmp_path, case)
    done = compress(adapter, tmp_path / "same", SharingRule("a"), base=base)
    assert done.relative < 1e-6  # it shares its As already
    same = PeftModel.from_pretrained(loaded(base, case), str(tmp_path / "same"))
    torch.testing.assert_close(logits(same, case), expected, rtol=1e-4, atol=1e-5)
    if case == "conv2d":
        return
    fitted = compress(adapter, tmp_path / "small", SharingRule("ab"), base=base)
    assert 0 < fitted.relative < 1.5 and fitted.plan.num_parameters < fitted.elements_before
    # What the result says is what the file holds.
    small, large = (PeftModel.from_pretrained(loaded(base, case), str(tmp_path / n)) for n in ("small", "adapter"))
    for site in fitted.errors:
        path = f"base_model.model.{site.site}"
        before, after = (m.get_submodule(path).get_delta_weight("default").detach() for m in (large, small))
        assert float((before - after).norm()) == pytest.approx(site.error, rel=1e-3, abs=1e-5)
        assert float(before.norm()) == pytest.approx(site.norm, rel=1e-3)


def test_a_best_fit_of_convolutions_is_that_of_their_flat_weights(tmp_path: Path) -> None:
    base, _, _ = saved(tmp_path, "conv1d")
    torch.manual_seed(0)
    config = ShareLoraConfig(r=4, target_modules=CASES["conv1d"].targets, share="none")
    model = shaken(get_peft_model(wav2vec2(), config))
    model.save_pretrained(str(tmp_path / "lora"))
    done = compress(tmp_path / "lora", tmp_path / "out", SharingRule("a"), base=base)
    layers = [model.get_submodule(f"base_model.model.{e.site.path}") for e in done.plan.entries]
    stack = torch.cat([layer.get_delta_weight("default").detach().flatten(1) for layer in layers]).double()
    values = torch.linalg.svdvals(stack)
    rank = next(iter(done.ranks.values()))
    # Eckart and Young: no rows of this rank come closer.
    best = float(values[rank:].norm())
    assert float(torch.tensor([site.error for site in done.errors]).norm()) == pytest.approx(best, rel=1e-3, abs=1e-4)
    assert load_file(tmp_path / "out/adapter_model.safetensors")[
        f"base_model.lora_bank.lora_A/conv/*/{rank}x16x3"
    ].shape == (rank, 16, 3)


def test_groups_are_exported_and_nothing_else(tmp_path: Path) -> None:
    mine = shaken(ours("groups", share="a", rank_pattern={"0.conv": 2}))
    mine.save_pretrained(str(tmp_path / "adapter"))
    export_lora(tmp_path / "adapter", tmp_path / "plain")
    stock = PeftModel.from_pretrained(built("groups"), str(tmp_path / "plain")).eval()
    torch.testing.assert_close(stock(ids()), mine(ids()), rtol=1e-5, atol=1e-6)
    base, _, _ = saved(tmp_path / "other", "embedding")
    message = r"adapts layers\.0\.conv, a convolution of 2 groups, which cannot be merged: what it learned reads inputs"
    with pytest.raises(UserError, match=message):
        merge(base, tmp_path / "adapter", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_attention_is_exported_under_the_names_of_peft(tmp_path: Path) -> None:
    mine = shaken(ours("attention", share="a", alpha_pattern={"0.attention": 11}))
    mine.save_pretrained(str(tmp_path / "adapter"))
    export_lora(tmp_path / "adapter", tmp_path / "plain")
    stock = PeftModel.from_pretrained(built("attention"), str(tmp_path / "plain")).eval()
    torch.testing.assert_close(stock(ids()), mine(ids()), rtol=1e-4, atol=1e-5)
    names = load_file(tmp_path / "plain/adapter_model.safetensors").keys()
    copy_matrices(theirs("attention"), mine).save_pretrained(str(tmp_path / "theirs"))
    assert names == load_file(tmp_path / "theirs/adapter_model.safetensors").keys()


def test_loralib_has_embeddings_and_no_such_convolutions(tmp_path: Path) -> None:
    _, adapter, _ = saved(tmp_path, "embedding")
    export_loralib(adapter, tmp_path / "flat.safetensors")
    assert load_file(tmp_path / "flat.safetensors")["model.embed_tokens.lora_A"].shape == (4, 48)
    _, conv, _ = saved(tmp_path / "conv", "conv2d")
    with pytest.raises(
        UserError, match=r"adapts the convolution \S*projection, whose LoRA has other shapes in loralib"
    ):
        export_loralib(conv, tmp_path / "conv.safetensors")
    assert not (tmp_path / "conv.safetensors").exists()


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    _, adapter, _ = saved(tmp_path, "embedding")
    llama(vocab_size=50).save_pretrained(tmp_path / "larger")
    message = r"for model\.embed_tokens it needs a weight of shape \(48, 32\), .* has \(50, 32\)"
    with pytest.raises(UserError, match=message):
        merge(tmp_path / "larger", adapter, tmp_path / "merged")


def test_commands_know_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, adapter, _ = saved(tmp_path, "embedding")
    main(["plan", "--model", str(base), "--lora_modules", "embed_tokens,q_proj", "--share", "a", "--lora_r", "4"])
    assert "lora_A  model.embed_tokens  -       4x48" in capsys.readouterr().out
    main(["inspect", str(adapter)])
    assert "embed_tokens" in capsys.readouterr().out
    wav2vec2().save_pretrained(tmp_path / "sound")
    names = "conv_layers.1.conv,conv_layers.2.conv"
    main(["plan", "--model", str(tmp_path / "sound"), "--lora_modules", names, "--share", "a", "--max_params", "500"])
    # 16 * 3 for A and 2 * 16 for B at rank 1.
    assert "480" in capsys.readouterr().out


def test_the_bank_of_a_convolution_has_its_kernel(tmp_path: Path) -> None:
    _, adapter, _ = saved(tmp_path, "conv2d")
    model = PeftModel.from_pretrained(vit(), str(adapter))
    shapes = {name: tuple(matrix.shape) for name, matrix in bank(model).items() if "projection" in name}
    assert sorted(shapes.values()) == [(2, 3, 4, 4), (32, 2, 1, 1)]
