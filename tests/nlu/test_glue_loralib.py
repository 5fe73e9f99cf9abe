"""Flat loralib files as they were released, with a head and without r or alpha: in, evaluated, and out again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import loralib
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from small_encoders import write_encoder
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from sharelora import SharingRule, UserError
from sharelora.cli.commands import main
from sharelora.convert import export_loralib, import_lora

IDS = torch.tensor([[0, 7, 8, 9, 2], [0, 5, 6, 11, 2]])
RANK, ALPHA = 4, 16
NAMES = {"roberta": ("query", "value"), "bert": ("query", "value"), "deberta-v2": ("query_proj", "value_proj")}


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def base(folder: Path, classes: int = 3) -> Any:
    torch.manual_seed(9)
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=classes)


def with_loralib(model: Any, names: tuple[str, ...], tie: bool = False) -> Any:
    """Put loralib's layers where LoRA's authors put them, and give them and the head values."""
    torch.manual_seed(1)
    first: dict[str, Tensor] = {}
    for parent in list(model.modules()):
        for name in names:
            old = getattr(parent, name, None)
            if isinstance(old, nn.Linear):
                new = loralib.Linear(32, 32, r=RANK, lora_alpha=ALPHA, merge_weights=False)
                new.weight.data, new.bias.data = old.weight.data, old.bias.data
                nn.init.normal_(new.lora_B, std=0.3)
                new.lora_A.data = first.setdefault(name, new.lora_A.data).clone() if tie else new.lora_A.data
                setattr(parent, name, new)
    nn.init.normal_(
        model.classifier.weight if hasattr(model.classifier, "weight") else model.classifier.out_proj.weight
    )
    return model


def released(model: Any) -> dict[str, Tensor]:
    """The weights that the authors' small files hold: A, B and everything outside the backbone."""
    prefix = f"{model.base_model_prefix}."
    pooler = f"{prefix}pooler."
    return {
        name: value.clone()
        for name, value in model.state_dict().items()
        if "lora_" in name or not name.startswith(prefix) or name.startswith(pooler)
    }


def loaded(folder: Path, adapter: Path) -> Any:
    return PeftModel.from_pretrained(base(folder), str(adapter))


@pytest.mark.parametrize(
    ("kind", "suffix", "masked"),
    [("roberta", "bin", True), ("roberta", "safetensors", False), ("bert", "bin", False), ("deberta-v2", "bin", True)],
)
def test_a_released_file_is_imported_with_its_head_and_exported_again(
    tmp_path: Path, kind: str, suffix: str, masked: bool
) -> None:
    """The base is published bare or with a masked language model's head; neither knows of a classifier."""
    folder = write_encoder(tmp_path / "base", kind, masked=masked)
    theirs = with_loralib(base(folder), NAMES[kind])
    state = released(theirs)
    file = tmp_path / f"lora.{suffix}"
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    with pytest.raises(UserError, match=r"does not say alpha.*--lora_alpha"):
        import_lora(file, tmp_path / "no", SharingRule(), folder)
    done = import_lora(file, tmp_path / "ours", SharingRule(), folder, alpha=ALPHA)
    assert done.left_out == 0 and done.elements == 2 * 2 * 2 * RANK * 32
    expected = logits(theirs)
    torch.testing.assert_close(logits(loaded(folder, tmp_path / "ours")), expected, rtol=1e-4, atol=1e-5)
    flat = export_loralib(tmp_path / "ours", tmp_path / "flat.safetensors")
    back = load_file(tmp_path / "flat.safetensors")
    assert flat.alpha == ALPHA and back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())
    fresh = with_loralib(base(folder), NAMES[kind])
    nn.init.zeros_(fresh.classifier.weight if hasattr(fresh.classifier, "weight") else fresh.classifier.out_proj.weight)
    assert not fresh.load_state_dict(back, strict=False).unexpected_keys
    torch.testing.assert_close(logits(fresh), expected)


def test_the_command_line_goes_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_encoder(tmp_path / "base")
    theirs = with_loralib(base(folder), NAMES["roberta"], tie=True)
    torch.save(released(theirs), tmp_path / "lora.bin")
    text = f"import {tmp_path}/lora.bin {tmp_path}/ours --base {folder} --lora_alpha {ALPHA} --share a"
    assert main(text.split()) == 0
    config = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert (config["share"], config["r"], config["modules_to_save"]) == ("a", RANK, ["classifier"])
    assert main(f"export {tmp_path}/ours {tmp_path}/flat.safetensors --loralib".split()) == 0
    assert "4 modules, 4 weights of the head; alpha is 16" in capsys.readouterr().out
    back = load_file(tmp_path / "flat.safetensors")
    assert all(torch.equal(back[name], value) for name, value in released(theirs).items())
    # What was exported here says its alpha.
    assert main(f"import {tmp_path}/flat.safetensors {tmp_path}/again --base {folder} --share none".split()) == 0
    torch.testing.assert_close(logits(loaded(folder, tmp_path / "again")), logits(theirs), rtol=1e-4, atol=1e-5)


def test_scalings_that_differ_are_put_into_b(tmp_path: Path) -> None:
    from peft import get_peft_model

    from sharelora import ShareLoraConfig

    folder = write_encoder(tmp_path / "base")
    config = ShareLoraConfig(
        r=RANK, lora_alpha=8, share="a", target_modules=["query", "value"], task_type="SEQ_CLS",
        alpha_pattern={"value": 2}, use_rslora=True,
    )  # fmt: skip
    model = get_peft_model(base(folder), config)
    with torch.no_grad():
        for value in model.base_model.lora_bank.parameters():
            value.normal_(std=0.2)
    model.save_pretrained(tmp_path / "ours")
    export_loralib(tmp_path / "ours", tmp_path / "flat.safetensors")
    theirs = base(folder)
    for layer in theirs.roberta.encoder.layer:
        for name in NAMES["roberta"]:
            old = getattr(layer.attention.self, name)
            new = loralib.Linear(32, 32, r=RANK, lora_alpha=8, merge_weights=False)
            new.weight.data, new.bias.data = old.weight.data, old.bias.data
            setattr(layer.attention.self, name, new)
    theirs.load_state_dict(load_file(tmp_path / "flat.safetensors"), strict=False)
    torch.testing.assert_close(logits(theirs), logits(model), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "base")
    torch.save(released(with_loralib(base(folder), NAMES["roberta"])), tmp_path / "lora.bin")
    import_lora(tmp_path / "lora.bin", tmp_path / "ours", SharingRule(), folder, alpha=ALPHA)
    for name in ("flat.bin", "lora.bin"):
        with pytest.raises(UserError, match=r"new \.safetensors file"):
            export_loralib(tmp_path / "ours", tmp_path / name)
    config = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    (tmp_path / "ours" / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(UserError, match="DoRA"):
        export_loralib(tmp_path / "ours", tmp_path / "flat.safetensors")
