"""Expand a compact adapter to a plain LoRA that stock PEFT, vLLM and llama.cpp read."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save, save_file
from torch import Tensor
from torch.nn import functional as F

from sharelora.convert.adapter_file import MODEL_PREFIX, Adapter, new_folder, read_adapter
from sharelora.support.errors import UserError
from sharelora.support.files import write_bytes, write_json
from sharelora.tuner.config import CONFIG_FILE, SHAREABLE_INIT, WEIGHTS_FILE

# GPT-2 keeps transposed weights under these names; PEFT asks to be told.
_TRANSPOSED = ("c_attn", "c_fc", "c_proj")


@dataclass(frozen=True)
class Exported:
    """What was written: the folder, adapted modules, their one rank, and elements of all matrices."""

    folder: Path
    modules: int
    rank: int
    elements: int


def _expanded(adapter: Adapter, path: str, rank: int) -> dict[str, Tensor]:
    """Return a module's own A and B, the scaling folded into B, both padded with zeros to the common rank.

    Servers know one `alpha / r` for a whole adapter and no ranks per module.
    """
    a, b = adapter.pair(path)
    more = rank - a.shape[0]
    prefix = f"{MODEL_PREFIX}{path}"
    return {
        f"{prefix}.lora_A.weight": F.pad(a, (0, 0, 0, more)).contiguous(),
        f"{prefix}.lora_B.weight": F.pad(b * adapter.scaling(path), (0, more)).contiguous(),
    }


def _plain_config(adapter: Adapter, rank: int) -> dict[str, Any]:
    known = {field.name for field in fields(LoraConfig)}
    kept = {name: value for name, value in adapter.config.items() if name in known or name == "peft_version"}
    transposed = any(path.rpartition(".")[2] in _TRANSPOSED for path in adapter.plan.by_path)
    uniform = {"r": rank, "lora_alpha": rank, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    plain = {"peft_type": "LORA", "init_lora_weights": True, "fan_in_fan_out": transposed, "inference_mode": True}
    return {**kept, **uniform, **plain}


def refuse_rewritten_base(adapter: Adapter) -> None:
    """Refuse an initialisation that also changed the base: A and B alone do not say what was learned.

    Raises:
        UserError: PiSSA, OLoRA and their kin.
    """
    init = adapter.config.get("init_lora_weights", True)
    if init not in SHAREABLE_INIT:
        raise UserError(
            f"{adapter.folder} was initialised with {init!r}, which changed the base weights too; its matrices alone "
            "are no LoRA of the original base; load it with peft and use merge_and_unload"
        )


def export_lora(adapter_folder: str | Path, out_folder: str | Path) -> Exported:
    """Write a compact adapter as a plain PEFT LoRA; no base model is needed.

    Args:
        adapter_folder: what `save_pretrained` wrote.
        out_folder: a folder that does not exist yet.

    Returns:
        What was written. A fused module counts as one, with the ranks of its slices added up.

    Raises:
        UserError: no whole ShareLoRA adapter there, an initialisation that rewrote the base, or a folder in the way.
    """
    adapter = read_adapter(adapter_folder)
    refuse_rewritten_base(adapter)
    paths = adapter.plan.by_path
    rank = max(sum(entry.r for entry in entries) for entries in paths.values())
    with new_folder(out_folder) as folder:
        tensors = {name: tensor for path in paths for name, tensor in _expanded(adapter, path, rank).items()}
        elements = sum(tensor.numel() for tensor in tensors.values())
        save_file({**tensors, **adapter.others}, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        write_json(folder / CONFIG_FILE, _plain_config(adapter, rank))
    return Exported(Path(out_folder), len(paths), rank, elements)


# Write a compact adapter as loralib keeps one: a flat dict of every A and B and of the head, and nothing else.


@dataclass(frozen=True)
class Flat:
    """What was written: the file, adapted modules, weights of the head, and the alpha that the file does not say."""

    file: Path
    modules: int
    head: int
    alpha: float


def _pair(adapter: Adapter, path: str, alpha: float) -> dict[str, Tensor]:
    """Return a module's A and B as loralib's Linear or MergedLinear has them.

    loralib scales by one alpha over r; where a module has another scaling, its B makes up for it.
    """
    entries = adapter.plan.by_path[path]
    a = torch.cat([adapter.matrices[entry.a].float() for entry in entries])
    b = torch.cat([adapter.matrices[entry.b].float() for entry in entries])
    share = adapter.scaling(path) * entries[0].r / alpha
    return {f"{path}.lora_A": a.contiguous(), f"{path}.lora_B": (b if share == 1 else b * share).contiguous()}


def export_loralib(adapter_folder: str | Path, out_file: str | Path) -> Flat:
    """Write a compact adapter as a flat loralib file, which `model.load_state_dict(..., strict=False)` takes.

    Args:
        adapter_folder: what `save_pretrained` wrote.
        out_file: a `.safetensors` file that does not exist yet.

    Raises:
        UserError: no whole ShareLoRA adapter there, one that loralib cannot express, or a file in the way.
    """
    adapter, file = read_adapter(adapter_folder), Path(out_file)
    refuse_rewritten_base(adapter)
    if file.exists() or file.suffix != ".safetensors":
        raise UserError(f"found {file}; need the name of a new .safetensors file; choose another")
    if adapter.config.get("use_dora"):
        raise UserError(f"{adapter.folder} has DoRA's magnitudes, which loralib does not know; use export without it")
    alpha = float(adapter.config["lora_alpha"])
    tensors = {name: t for path in adapter.plan.by_path for name, t in _pair(adapter, path, alpha).items()}
    heads = {name: tensor.contiguous() for name, tensor in adapter.heads().items()}
    write_bytes(file, save({**tensors, **heads}, metadata={"format": "pt", "lora_alpha": str(alpha)}))
    return Flat(file, len(adapter.plan.by_path), len(heads), alpha)
