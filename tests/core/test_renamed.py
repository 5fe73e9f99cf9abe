"""An adapter is loaded on a model in which what holds the layers has another name than when it was made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from toy_models import adapted, bank, llama, logits, shake

from sharelora import UserError
from sharelora.convert import export_lora, export_loralib, merge
from sharelora.plan.renamed import nearest_paths, rename
from sharelora.tuner.config import ShareLoraConfig


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.v_proj(self.q_proj(x).tanh())


def holder(path: str, content: nn.Module) -> nn.Module:
    """Modules inside of each other, the last of which is the content."""
    for name in reversed(path.split(".")):
        outer = nn.Module()
        outer.add_module(name, content)
        content = outer
    return content


class Both(nn.Module):
    """A tower of vision, a language model and a head, each at a path of choice."""

    def __init__(self, vision: str, language: str, head: str, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.at = (vision, language, head)
        contents = (nn.ModuleList(Block(4) for _ in range(2)), nn.ModuleList(Block(4) for _ in range(3)))
        for path, content in zip(self.at, (*contents, nn.Linear(4, 2)), strict=True):
            first, *names = path.split(".")
            parent: nn.Module = self
            for name, following in zip([first, *names], [*names, None], strict=True):
                if following is None:
                    parent.add_module(name, content)
                elif not hasattr(parent, name):
                    parent.add_module(name, nn.Module())
                parent = getattr(parent, name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        vision, language, head = (self.get_submodule(path) for path in self.at)
        for block in (*vision, *language):
            x = block(x)
        return head(x)


OLD = ("vision_tower.encoder.layers", "language_model.model.layers", "language_model.lm_head")
NEW = ("model.vision_tower.encoder.layers", "model.language_model.layers", "lm_head")
X = torch.linspace(-1, 1, 12).view(3, 4)


def trained(**settings: Any) -> nn.Module:
    model = shake(adapted(Both(*OLD), **{"share": "a", "target_modules": ["q_proj", "v_proj"], **settings}))
    for name, value in model.named_parameters():
        if "modules_to_save" in name or "magnitude" in name:
            nn.init.normal_(value.data)
    return model.eval()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"share": "ab"},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"bias": "lora_only"},
        {"target_modules": r"language_model\..*\.(q|v)_proj"},
        {"target_modules": ["language_model.model.layers.1.q_proj"], "share": "none"},
    ],
    ids=str,
)
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_renamed_prefixes(tmp_path: Path, settings: dict[str, Any], low_cpu_mem_usage: bool) -> None:
    model = trained(**settings)
    model.save_pretrained(tmp_path / "old")
    loaded = PeftModel.from_pretrained(Both(*NEW), tmp_path / "old", low_cpu_mem_usage=low_cpu_mem_usage).eval()
    torch.testing.assert_close(loaded(X), model(X), rtol=0, atol=0)
    assert bank(loaded).keys() == bank(model).keys()
    plan = loaded.base_model.plans["default"]
    assert {path.split(".")[0] for path in plan.by_path} == {"model"}
    # What is saved now is of the model as it is now.
    loaded.save_pretrained(tmp_path / "new")
    again = PeftModel.from_pretrained(Both(*NEW), tmp_path / "new").eval()
    torch.testing.assert_close(again(X), model(X), rtol=0, atol=0)
    assert again.base_model.plans["default"].hash == plan.hash
    back = PeftModel.from_pretrained(Both(*OLD), tmp_path / "new").eval()
    torch.testing.assert_close(back(X), model(X), rtol=0, atol=0)


def test_a_wrapped_model(tmp_path: Path) -> None:
    model = shake(adapted(llama(), share="a"))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(holder("wrapper", llama()), tmp_path)
    for path, entries in model.base_model.plans["default"].by_path.items():
        now = loaded.base_model.plans["default"].by_path[f"wrapper.{path}"]
        assert [(entry.a, entry.b) for entry in now] == [(entry.a, entry.b) for entry in entries]


def test_what_could_be_two_is_refused(tmp_path: Path) -> None:
    base = Both("a.layers", "b.layers", "head")
    shake(adapted(base, share="a", target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"the adapter's a\.layers\.0\.q_proj could be .* or .* of this model") as error:
        PeftModel.from_pretrained(Both("c.layers", "d.layers", "head"), tmp_path)
    assert "\n" not in str(error.value)


def test_another_model_stays_another_model(tmp_path: Path) -> None:
    trained().save_pretrained(tmp_path)

    class Wider(Both):
        def __init__(self) -> None:
            super().__init__(*NEW)
            self.get_submodule(NEW[1])[2].q_proj = nn.Linear(4, 8)

    with pytest.raises(UserError, match=r"made for another model: this one lacks, of its plan .*2\.q_proj \(4 to 4\)"):
        PeftModel.from_pretrained(Wider(), tmp_path)


def test_a_configuration_whose_rule_was_changed_is_noticed_under_the_same_names() -> None:
    plan = adapted(llama(), share="a").base_model.plans["default"].to_json()
    with pytest.raises(UserError, match="differ in"):
        adapted(llama(), share="b", plan=plan)


def test_a_plan_made_when_layers_were_counted_otherwise_is_used_as_it_is() -> None:
    """Then a list around a model was taken for its layers."""
    plan = adapted(nn.ModuleDict({"models": nn.ModuleList([llama()])}), share="none").base_model.plans["default"]
    rows = [
        {**row, "layer": 0, "kind": row["path"].removeprefix("models.0."), "a": f"lora_A/{i}", "b": f"lora_B/{i}"}
        for i, row in enumerate(plan.to_json()["sites"])
    ]
    config = ShareLoraConfig(
        r=4, share="none", target_modules=["q_proj", "v_proj"], plan={"format": "sharelora-plan/1", "sites": rows}
    )
    from peft import get_peft_model

    model = get_peft_model(nn.ModuleDict({"models": nn.ModuleList([llama()])}), config)
    assert model.base_model.plans["default"].to_json()["sites"] == rows


def test_settings_of_single_modules_go_along(tmp_path: Path) -> None:
    patterns = {"alpha_pattern": {f"{OLD[1]}.1.q_proj": 32, "v_proj": 2}, "rank_pattern": {f"{OLD[1]}.2.v_proj": 2}}
    model = trained(**patterns)
    model.save_pretrained(tmp_path / "old")
    loaded = PeftModel.from_pretrained(Both(*NEW), tmp_path / "old").eval()
    torch.testing.assert_close(loaded(X), model(X), rtol=0, atol=0)
    loaded.save_pretrained(tmp_path / "new")
    again = PeftModel.from_pretrained(Both(*NEW), tmp_path / "new").eval()
    torch.testing.assert_close(again(X), model(X), rtol=0, atol=0)


LLAVA = "model.language_model.layers", "language_model.model.layers"


def old_llava(folder: Path, **settings: Any) -> torch.Tensor:
    """Save a LLaVA and an adapter of it under the names that both had before; return the logits of the two."""
    base: Any = FAMILIES["llava"]()
    base.save_pretrained(folder / "base")
    model = shake(adapted(base, **{"share": "a", "target_modules": r".*language_model.*\.(q|v)_proj", **settings}))
    model.save_pretrained(folder / "adapter")
    file = folder / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text().replace(LLAVA[0], LLAVA[1]))
    del config["weights_sha256"]
    file.write_text(json.dumps(config))
    weights = {
        name.replace(LLAVA[0], LLAVA[1]).replace("model.lm_head", "model.language_model.lm_head"): tensor
        for name, tensor in load_file(folder / "adapter" / "adapter_model.safetensors").items()
    }
    save_file(weights, folder / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    return logits(model.eval())


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"alpha_pattern": {f"{LLAVA[0]}.1.self_attn.q_proj": 32}},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"], "share": "ab"},
    ],
    ids=str,
)
def test_merges_and_exports_rename_as_loading_does(tmp_path: Path, settings: dict[str, Any]) -> None:
    before = old_llava(tmp_path, **settings)
    make: Any = type(FAMILIES["llava"]())
    loaded = PeftModel.from_pretrained(make.from_pretrained(tmp_path / "base"), tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(loaded), before, rtol=0, atol=0)
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    torch.testing.assert_close(logits(make.from_pretrained(tmp_path / "merged").eval()), before, rtol=1e-5, atol=1e-5)
    export_lora(tmp_path / "adapter", tmp_path / "plain", tmp_path / "base")
    assert LLAVA[1] not in (tmp_path / "plain" / "adapter_config.json").read_text()
    plain = PeftModel.from_pretrained(make.from_pretrained(tmp_path / "base"), tmp_path / "plain").eval()
    torch.testing.assert_close(logits(plain), before, rtol=1e-5, atol=1e-5)


def test_a_flat_file_has_the_names_of_today(tmp_path: Path) -> None:
    old_llava(tmp_path)
    export_loralib(tmp_path / "adapter", tmp_path / "flat.safetensors", tmp_path / "base")
    assert all(name.startswith(LLAVA[0]) for name in load_file(tmp_path / "flat.safetensors"))


def test_nearest_paths_and_names() -> None:
    new = ["model.vision.layers.0.q", "model.language.layers.0.q", "model.language.layers.1.q"]
    assert nearest_paths("language.model.layers.0.q", new) == [new[1]]
    assert nearest_paths("vision.layers.0.q", new) == [new[0]]
    assert nearest_paths("x.layers.0.q", new) == new[:2]
    assert nearest_paths("x.layers.2.q", new) == []
    assert rename("language.lm_head.weight", {}, ["lm_head"]) == "lm_head.weight"
    assert rename("a.q.magnitude", {"a.q": "b.a.q"}) == "b.a.q.magnitude"
    assert rename("x.head.weight", {}, ["a.head", "b.head"]) is None
