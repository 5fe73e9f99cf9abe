"""Adapters of every kind, saved beside their bases, for the tests of adapters as files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from toy_models import QKV, adapted, gpt2, llama, logits, neox, phi3, roberta, shake

THIRDS = {"c_attn": [True, False, True]}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "a": (llama, {"share": "a"}),
    "lora": (llama, {"share": "none", "target_modules": "all-linear"}),
    "ab": (llama, {"share": "ab", "target_modules": QKV}),
    "tied": (llama, {"share": "a", "share_across": "modules", "target_modules": QKV}),
    "groups": (llama, {"share": "ab", "share_groups": [[0, 1]]}),
    "rslora": (llama, {"share": "a", "use_rslora": True}),
    "dora": (llama, {"share": "a", "use_dora": True}),
    "ranks": (llama, {"share": "a", "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}}),
    "some layers": (llama, {"share": "b", "layers_to_transform": [1, 2]}),
    "thirds": (gpt2, {"share": "a", "target_modules": ["c_attn"], "enable_lora": THIRDS}),
    "thirds rslora": (gpt2, {"target_modules": ["c_attn"], "enable_lora": THIRDS, "use_rslora": True}),
    "heads": (neox, {"target_modules": ["query_key_value"], "enable_lora": {"query_key_value": [True, False, True]}}),
    "grouped": (
        *(phi3,),
        {
            "target_modules": ["qkv_proj", "gate_up_proj"],
            "enable_lora": {"qkv_proj": [True, True, False], "gate_up_proj": [False, True]},
        },
    ),
    "conv1d": (gpt2, {"share": "a", "target_modules": ["c_attn", "attn.c_proj"]}),
    "conv1d dora": (gpt2, {"share": "a", "target_modules": ["attn.c_proj"], "use_dora": True}),
    "classifier": (roberta, {"share": "a", "target_modules": ["query", "value"], "task_type": "SEQ_CLS"}),
}
STOCK = """
import sys, torch, transformers, warnings
from peft import PeftModel
warnings.simplefilter("error", UserWarning)  # with one, PEFT says that keys are missing
base = getattr(transformers, sys.argv[3]).from_pretrained(sys.argv[1])
model = PeftModel.from_pretrained(base, sys.argv[2]).eval()
assert "sharelora" not in sys.modules
torch.save(model(input_ids=torch.load(sys.argv[4])).logits.detach(), sys.argv[5])
"""


def saved(tmp_path: Path, case: str) -> tuple[Path, Path, torch.Tensor]:
    """Save a base and an adapter with values of its own; return the folders and the logits."""
    make, settings = CASES[case]
    base = make()
    base.save_pretrained(tmp_path / "base")
    model = shake(adapted(base, lora_alpha=6, **settings))
    model.save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "base", tmp_path / "adapter", logits(model)


def contents(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def plain_lora(tmp_path: Path, tie: bool, **settings: Any) -> tuple[Path, Path, torch.Tensor]:
    """Save a base and a plain PEFT LoRA on q and v, its As equal over the layers if tied."""
    base = llama()
    base.save_pretrained(tmp_path / "base")
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"], **settings)
    model = shake(get_peft_model(base, config))
    if tie:
        for module in ("q_proj", "v_proj"):
            layers = [getattr(layer.self_attn, module) for layer in base.model.layers]
            for layer in layers[1:]:
                layer.lora_A.default.weight.data.copy_(layers[0].lora_A.default.weight)
    model.save_pretrained(str(tmp_path / "plain"))
    return tmp_path / "base", tmp_path / "plain", logits(model)
