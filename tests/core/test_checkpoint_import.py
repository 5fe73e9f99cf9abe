"""A plain LoRA is taken over if its matrices agree with the plan, and refused with the sites if not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import loralib
import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file
from saved_adapters import CASES, THIRDS, plain_lora, saved
from torch import nn
from toy_models import gpt2, llama, logits, roberta

from sharelora import SharingRule, UserError
from sharelora.convert import export_lora, import_lora, inspect


@pytest.mark.parametrize(
    "case",
    ["a", "lora", "ab", "tied", "groups", "rslora", "ranks", "some layers", "thirds", "heads", "grouped", "classifier"],
)
def test_what_was_exported_can_be_imported(tmp_path: Path, case: str) -> None:
    base, adapter, expected = saved(tmp_path, case)
    export_lora(adapter, tmp_path / "plain")
    settings = CASES[case][1]
    groups = settings.get("share_groups")
    rule = SharingRule(
        settings.get("share", "a"),
        across=settings.get("share_across", "layers"),
        groups=groups and tuple(map(tuple, groups)),
    )
    done = import_lora(tmp_path / "plain", tmp_path / "back", rule, base, enable_lora=settings.get("enable_lora"))
    model = PeftModel.from_pretrained(type(CASES[case][0]()).from_pretrained(base), str(tmp_path / "back"))
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-6)
    assert done.elements == inspect(tmp_path / "back").elements
    if case not in ("ranks", "grouped"):  # the export has filled the smaller ranks up
        assert done.elements == inspect(adapter).elements


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"alpha_pattern": {"v_proj": 3}}])
def test_a_plain_lora_is_imported_as_it_is(tmp_path: Path, settings: dict[str, Any]) -> None:
    base, plain, expected = plain_lora(tmp_path, tie=False, **settings)
    import_lora(plain, tmp_path / "ours", SharingRule(), base)
    model = PeftModel.from_pretrained(transformers.LlamaForCausalLM.from_pretrained(base), str(tmp_path / "ours"))
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-6)


def test_tied_matrices_are_stored_once(tmp_path: Path) -> None:
    base, plain, expected = plain_lora(tmp_path, tie=True)
    done = import_lora(plain, tmp_path / "ours", SharingRule("a"), base)
    assert done.elements == 2 * 4 * 32 + 3 * 4 * (32 + 16)
    model = PeftModel.from_pretrained(transformers.LlamaForCausalLM.from_pretrained(base), str(tmp_path / "ours"))
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-6)


def test_matrices_that_disagree_are_refused_with_the_sites_and_the_difference(tmp_path: Path) -> None:
    base, plain, _ = plain_lora(tmp_path, tie=True)
    tensors = load_file(plain / "adapter_model.safetensors")
    tensors["base_model.model.model.layers.2.self_attn.v_proj.lora_A.weight"][1, 3] += 0.25
    save_file(tensors, plain / "adapter_model.safetensors")
    message = (
        r"at 1 of 6 sites \(model.layers.2.self_attn.v_proj\); the largest difference, 0.25, is between the A of "
        r"model.layers.2.self_attn.v_proj and that of model.layers.0.self_attn.v_proj"
    )
    with pytest.raises(UserError, match=message):
        import_lora(plain, tmp_path / "ours", SharingRule("a"), base)
    assert not (tmp_path / "ours").exists()


def loralib_gpt2(tmp_path: Path) -> tuple[Path, torch.Tensor, dict[str, torch.Tensor]]:
    """Save a GPT-2 and compute with loralib's MergedLinear on q and v, with tied As."""
    base = gpt2()
    base.save_pretrained(tmp_path / "base")
    first = None
    for block in base.transformer.h:
        old = block.attn.c_attn
        new = loralib.MergedLinear(
            32, 96, r=4, lora_alpha=32, enable_lora=[True, False, True], fan_in_fan_out=True, merge_weights=False
        )
        new.weight.data, new.bias.data = old.weight.data, old.bias.data
        nn.init.normal_(new.lora_B)
        first = new.lora_A.data if first is None else first
        new.lora_A.data = first.clone()
        block.attn.c_attn = new
    return tmp_path / "base", logits(base), loralib.lora_state_dict(base)


@pytest.mark.parametrize("kind", ["safetensors", "bin", "nested"])
def test_loralib_files_are_imported(tmp_path: Path, kind: str) -> None:
    base, expected, state = loralib_gpt2(tmp_path)
    file = tmp_path / f"lora.{'safetensors' if kind == 'safetensors' else 'bin'}"
    if kind == "safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    elif kind == "bin":
        torch.save(state, file)
    else:
        torch.save({"model_state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, file)
    import_lora(file, tmp_path / "ours", SharingRule("a"), base, alpha=32, enable_lora=THIRDS)
    model = PeftModel.from_pretrained(transformers.GPT2LMHeadModel.from_pretrained(base), str(tmp_path / "ours"))
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)


def test_a_whole_roberta_state_of_loralib_keeps_its_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = roberta()
    base.save_pretrained(tmp_path / "base")
    for layer in base.roberta.encoder.layer:
        attention = layer.attention.self
        for name in ("query", "value"):
            old = getattr(attention, name)
            new = loralib.Linear(32, 32, r=2, lora_alpha=8, merge_weights=False)
            new.weight.data, new.bias.data = old.weight.data, old.bias.data
            nn.init.normal_(new.lora_B)
            setattr(attention, name, new)
    nn.init.normal_(base.classifier.out_proj.weight)
    torch.save(base.state_dict(), tmp_path / "lora.bin")
    done = import_lora(tmp_path / "lora.bin", tmp_path / "ours", SharingRule(), tmp_path / "base", alpha=8)
    assert done.left_out > 10 and "left out" in caplog.text
    config = json.loads((tmp_path / "ours/adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["classifier"])
    fresh = transformers.RobertaForSequenceClassification.from_pretrained(tmp_path / "base")
    model = PeftModel.from_pretrained(fresh, str(tmp_path / "ours"))
    torch.testing.assert_close(logits(model), logits(base), rtol=1e-4, atol=1e-5)


def test_sources_that_cannot_be_imported_are_refused(tmp_path: Path) -> None:
    base, plain, _ = plain_lora(tmp_path, tie=False)
    rule, out = SharingRule(), tmp_path / "out"
    with pytest.raises(UserError, match="drop the flag"):
        import_lora(plain, out, rule, base, alpha=8)
    llama(layers=2).save_pretrained(tmp_path / "shallow")
    with pytest.raises(UserError, match=r"2 modules are only in the source, first model\.layers\.2"):
        import_lora(plain, out, rule, tmp_path / "shallow")
    file = tmp_path / "lora.bin"
    torch.save({"x.lora_A": torch.zeros(2, 3)}, file)
    with pytest.raises(UserError, match="does not say alpha"):
        import_lora(file, out, rule, base)
    with pytest.raises(UserError, match="only one of lora_A and lora_B for x"):
        import_lora(file, out, rule, base, alpha=8)
    torch.save({"x.lora_A": torch.zeros(2, 3), "step": 5}, file)
    with pytest.raises(UserError, match="is not a flat dict of tensors"):
        import_lora(file, out, rule, base, alpha=8)
    torch.save(nn.Linear(2, 2), file)
    with pytest.raises(UserError, match="cannot be read as weights alone"):
        import_lora(file, out, rule, base, alpha=8)
    config = json.loads((plain / "adapter_config.json").read_text())
    config.pop("base_model_name_or_path")
    (plain / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="give --base"):
        import_lora(plain, out, rule)
    _, adapter, _ = saved(tmp_path / "ours", "a")
    with pytest.raises(UserError, match="is of type 'SHARELORA'"):
        import_lora(adapter, out, rule, base)


def test_a_fused_module_needs_its_slices_named(tmp_path: Path) -> None:
    base, _, state = loralib_gpt2(tmp_path)
    torch.save(state, tmp_path / "lora.bin")
    with pytest.raises(UserError, match="--enable_lora for a fused module"):
        import_lora(tmp_path / "lora.bin", tmp_path / "ours", SharingRule("a"), base, alpha=32)
