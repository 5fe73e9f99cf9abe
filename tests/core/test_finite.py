"""NaN and infinite numbers are refused wherever weights are read to be converted, or written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from saved_adapters import plain_lora
from toy_models import adapted, llama, shake

from sharelora import ShareLoraConfig, SharingRule, UserError
from sharelora.convert import compress, export_lora, export_loralib, import_lora, inspect, merge
from sharelora.layer_groups.measure import layer_states
from sharelora.trainer.serialization import save_weights
from sharelora.tuner.files import CONFIG_FILE, WEIGHTS_FILE
from sharelora.tuner.finite import is_finite, require_finite

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_number_counts(dtype: torch.dtype) -> None:
    fine = torch.linspace(-1, 1, 60, dtype=dtype).reshape(3, 20)
    assert is_finite(fine) and is_finite(fine[:0]) and is_finite(torch.tensor([2**62]))
    for bad in (NAN, INF, -INF):
        for index in (0, 31, 59):
            tensor = fine.clone()
            tensor.flatten()[index] = bad
            assert not is_finite(tensor)
    assert is_finite(torch.full((9,), torch.finfo(dtype).max, dtype=dtype))  # whose sum would be infinite


def test_the_first_and_the_number_are_named() -> None:
    tensors = {"a": torch.ones(2), "b": torch.tensor([NAN]), "c": torch.tensor([INF])}
    with pytest.raises(UserError, match=r"found NaN or infinite numbers in x, in 2 tensors, first b; need .*; do y"):
        require_finite(tensors, "x", "do y")
    require_finite(iter({"a": torch.ones(2)}.items()), "x", "do y")


def shared(folder: Path, bad: float = 0.0) -> tuple[Path, Path]:
    """Save a base and an adapter of which one number may be bad."""
    base = llama()
    base.save_pretrained(folder / "base")
    model = shake(adapted(base, share="a"))
    if bad:
        next(value for value in model.parameters() if value.requires_grad).data.flatten()[3] = bad
    model.save_pretrained(str(folder / "adapter"))
    return folder / "base", folder / "adapter"


# Reader of an adapter, given base, adapter and a target.
CONVERTERS: dict[str, Callable[[Path, Path, Path], Any]] = {
    "inspect": lambda base, adapter, out: inspect(adapter),
    "export": lambda base, adapter, out: export_lora(adapter, out, base),
    "loralib": lambda base, adapter, out: export_loralib(adapter, out.with_suffix(".safetensors"), base),
    "merge": lambda base, adapter, out: merge(base, adapter, out),
    "compress": lambda base, adapter, out: compress(adapter, out, SharingRule("ab"), base=base),
}


@pytest.mark.parametrize("name", CONVERTERS)
def test_no_adapter_with_nan_is_converted(tmp_path: Path, name: str) -> None:
    base, adapter = shared(tmp_path, NAN)
    before = set(tmp_path.iterdir())
    with pytest.raises(UserError, match=rf"found NaN or infinite numbers in {adapter}, in 1 tensors, first base_model"):
        CONVERTERS[name](base, adapter, tmp_path / "out")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("convert", [import_lora, compress])
def test_no_plain_lora_with_nan_is_taken_over(tmp_path: Path, convert: Callable[..., Any]) -> None:
    base, plain, _ = plain_lora(tmp_path, tie=True)
    tensors = load_file(plain / WEIGHTS_FILE)
    next(iter(tensors.values()))[0, 0] = INF
    save_file(tensors, plain / WEIGHTS_FILE, metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"found NaN or infinite numbers in {plain}, in 1 tensors, first lora_[AB] of"):
        convert(plain, tmp_path / "out", SharingRule("a"), base=base)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("alpha", [NAN, INF, "16", None, True])
def test_a_scaling_is_a_number(tmp_path: Path, alpha: Any) -> None:
    base, plain, _ = plain_lora(tmp_path, tie=True)
    config = json.loads((plain / CONFIG_FILE).read_text())
    (plain / CONFIG_FILE).write_text(json.dumps({**config, "lora_alpha": alpha}))
    with pytest.raises(UserError, match=r"lora_alpha.* need a number"):
        import_lora(plain, tmp_path / "out", SharingRule("a"), base)


def test_a_rank_is_a_number_too(tmp_path: Path) -> None:
    base, plain, _ = plain_lora(tmp_path, tie=True)
    config = json.loads((plain / CONFIG_FILE).read_text())
    (plain / CONFIG_FILE).write_text(json.dumps({**config, "r": 0}))
    with pytest.raises(UserError, match=r"has 0 as r; need a whole number"):
        import_lora(plain, tmp_path / "out", SharingRule("a"), base)


def test_an_alpha_of_ones_own_is_a_number(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found lora_alpha"):
        ShareLoraConfig(target_modules=["q_proj"], lora_alpha=NAN)
    with pytest.raises(UserError, match="found lora_alpha"):
        ShareLoraConfig(target_modules=["q_proj"], alpha_pattern={"q_proj": INF})
    state = {"model.layers.0.self_attn.q_proj.lora_A": torch.ones(4, 32)}
    state |= {"model.layers.0.self_attn.q_proj.lora_B": torch.ones(32, 4)}
    save_file(state, tmp_path / "flat.safetensors")
    llama().save_pretrained(tmp_path / "base")
    with pytest.raises(UserError, match=r"found the scaling nan of model.layers.0.self_attn.q_proj in"):
        import_lora(tmp_path / "flat.safetensors", tmp_path / "out", SharingRule(), tmp_path / "base", alpha=NAN)


def test_a_base_with_nan_is_not_merged(tmp_path: Path) -> None:
    base, adapter = shared(tmp_path)
    file = base / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][0] = NAN  # which no adapter changes
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"merged weights of .*model\.safetensors, in 1 tensors, first model\.norm"):
        merge(base, adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_merge_does_not_overflow(tmp_path: Path) -> None:
    base, adapter = shared(tmp_path)
    file = base / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][0] = 1e6  # more than fp16 holds
    save_file(tensors, file, metadata={"format": "pt"})
    merge(base, adapter, tmp_path / "fine", "bf16")
    with pytest.raises(UserError, match=r"first model.norm.weight; need finite numbers; .* give --dtype fp32"):
        merge(base, adapter, tmp_path / "out", "fp16")


def test_an_export_does_not_overflow(tmp_path: Path) -> None:
    base, adapter = shared(tmp_path)
    config = json.loads((adapter / CONFIG_FILE).read_text())
    (adapter / CONFIG_FILE).write_text(json.dumps({**config, "lora_alpha": 1e300}))
    with pytest.raises(UserError, match="found NaN or infinite numbers in the export of"):
        export_lora(adapter, tmp_path / "out", base)
    assert not (tmp_path / "out").exists()


def test_no_similarity_is_made_of_nan() -> None:
    model = llama().eval()
    model.model.layers[1].mlp.down_proj.weight.data[0, 0] = NAN
    batch = {"input_ids": torch.tensor([[3, 4]]), "attention_mask": torch.ones(1, 2, dtype=torch.long)}
    with pytest.raises(UserError, match=r"what the layers of the model give, in \d tensors, first layer 1; need"):
        list(layer_states(model, [batch]))


def test_what_was_trained_is_looked_at_before_it_is_written(tmp_path: Path) -> None:
    model = adapted(llama(), share="a")
    model.base_model.model.model.norm.weight.data[0] = NAN  # of the frozen base, which is not written
    save_weights(model, tmp_path / "fine")
    next(value for value in model.parameters() if value.requires_grad).data[0, 0] = NAN
    with pytest.raises(UserError, match=r"the trained weights, in 1 tensors, first .*lora_A.*; lower --learning_rate"):
        save_weights(model, tmp_path / "out")
    with pytest.raises(UserError, match="first gathered"):
        save_weights(model, tmp_path / "out", {"gathered": torch.tensor([INF])})
    assert not (tmp_path / "out").exists()
