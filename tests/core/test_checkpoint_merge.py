"""A merged model is a plain model that computes the same, and its sources stay as they were."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from saved_adapters import CASES, contents, saved
from toy_models import adapted, llama, logits, roberta, shake

from sharelora import UserError
from sharelora.convert import merge
from sharelora.convert.merging import merged_weight


@pytest.mark.parametrize("case", CASES)
def test_the_merged_model_computes_the_same(tmp_path: Path, case: str) -> None:
    base, adapter, expected = saved(tmp_path, case)
    before = contents(base) | contents(adapter)
    done = merge(base, adapter, tmp_path / "merged")
    assert contents(base) | contents(adapter) == before
    assert done.changed and done.note is None
    merged = type(CASES[case][0]()).from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-5)


def test_merging_again_gives_the_same_bytes(tmp_path: Path) -> None:
    base, adapter, _ = saved(tmp_path, "a")
    merge(base, adapter, tmp_path / "one")
    merge(base, adapter, tmp_path / "two")
    assert list(contents(tmp_path / "one").values()) == list(contents(tmp_path / "two").values())


def test_a_bf16_base_is_rounded_once(tmp_path: Path) -> None:
    model = shake(adapted(llama().bfloat16(), share="a"))
    model.save_pretrained(str(tmp_path / "adapter"))
    model.unload().save_pretrained(tmp_path / "base")
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    name = "model.layers.1.self_attn.q_proj"
    a, b = (model_bank(tmp_path / "adapter", side, "q_proj", 1) for side in "AB")
    base = load_file(tmp_path / "base/model.safetensors")[f"{name}.weight"]
    found = load_file(tmp_path / "merged/model.safetensors")[f"{name}.weight"]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, (base.float() + 2.0 * b @ a).bfloat16(), rtol=0, atol=0)


def model_bank(folder: Path, side: str, module: str, layer: int) -> torch.Tensor:
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        names = [name for name in file.keys() if f"lora_{side}/" in name and f"/{module}/" in name]
        return file.get_tensor(next(name for name in names if f"/{module}/*/" in name or f"/{module}/{layer}/" in name))


def test_shards_and_the_rest_of_the_folder_are_kept(tmp_path: Path) -> None:
    model = shake(adapted(llama(), share="a"))
    model.save_pretrained(str(tmp_path / "adapter"))
    expected = logits(model)
    model.unload().save_pretrained(tmp_path / "base", max_shard_size="20KB")
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    (tmp_path / "base" / "pytorch_model.bin").write_bytes(b"old")
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged", dtype="fp16")
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert names == {path.name for path in (tmp_path / "base").iterdir()} - {"pytorch_model.bin"}
    assert len([name for name in names if name.endswith(".safetensors")]) > 2
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == torch.float16
    torch.testing.assert_close(logits(merged.float()), expected, rtol=1e-2, atol=1e-2)


def test_a_classifier_with_other_labels_gets_its_class_and_labels(tmp_path: Path) -> None:
    trained = transformers.RobertaForSequenceClassification(
        roberta().config.__class__(
            **roberta().config.to_dict() | {"id2label": {0: "x", 1: "y", 2: "z"}, "label2id": {"x": 0, "y": 1, "z": 2}}
        )
    )
    model = shake(adapted(trained, target_modules=["query"], share="a", task_type="SEQ_CLS"))
    model.save_pretrained(str(tmp_path / "adapter"))
    expected = logits(model)
    language = transformers.RobertaForMaskedLM(roberta().config)
    language.roberta.load_state_dict(model.unload().roberta.state_dict())
    language.save_pretrained(tmp_path / "base")
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    merged = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert merged.config.num_labels == 3
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-5)


def test_weights_without_the_prefix_are_found(tmp_path: Path) -> None:
    base, adapter, expected = saved(tmp_path, "thirds")
    tensors = load_file(base / "model.safetensors")
    save_file(
        {name.removeprefix("transformer."): t for name, t in tensors.items()},
        base / "model.safetensors",
        metadata={"format": "pt"},
    )
    merge(base, adapter, tmp_path / "merged")
    merged = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("precision", "words"), [("nf4", r"into by (8|9|10)\.\d%"), ("int8", "into; ")])
def test_an_adapter_of_a_quantised_base_says_what_differs(tmp_path: Path, precision: str, words: str) -> None:
    pytest.importorskip("bitsandbytes")
    base = llama(hidden=64)
    base.save_pretrained(tmp_path / "base")
    adapted(base, share="a", trained_on=precision).save_pretrained(str(tmp_path / "adapter"))
    done = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    assert re.search(f"trained on a {precision} base, .*{words}", str(done.note)), done.note


def test_dora_scales_rows() -> None:
    weight, delta = torch.randn(5, 3), torch.randn(5, 3)
    merged = merged_weight(weight, delta, torch.arange(1.0, 6.0), transposed=False)
    torch.testing.assert_close(merged.norm(dim=1), torch.arange(1.0, 6.0))
    torch.testing.assert_close(merged_weight(weight.t(), delta, torch.arange(1.0, 6.0), transposed=True), merged.t())


def test_another_base_is_refused_for_a_merge(tmp_path: Path) -> None:
    _, adapter, _ = saved(tmp_path, "a")
    llama(hidden=64).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=r"made for another model: for model.layers.0.self_attn.q_proj .*\(32, 32\)"):
        merge(tmp_path / "other", adapter, tmp_path / "merged")
    llama(layers=2).save_pretrained(tmp_path / "shallow")
    with pytest.raises(UserError, match=r"this one lacks, .* model.layers.2.self_attn.q_proj \(32 to 32\); "):
        merge(tmp_path / "shallow", adapter, tmp_path / "merged")


def test_a_quantised_base_is_refused_for_a_merge(tmp_path: Path) -> None:
    base, adapter, _ = saved(tmp_path, "a")
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="need the 16- or 32-bit model"):
        merge(base, adapter, tmp_path / "merged")


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapter, _ = saved(tmp_path, "a")
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("sharelora.convert.merging.shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"found 1\.00 kB free"):
        merge(base, adapter, tmp_path / "merged")
