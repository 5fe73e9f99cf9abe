"""Export of a compact adapter: as a plain LoRA that stock PEFT, vLLM and llama.cpp read, or as loralib's flat file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from sharelora.convert.adapter_file import BASE_LAYER, MODEL_PREFIX, Adapter, read_adapter, with_kernel
from sharelora.convert.on_base import on_own_base
from sharelora.convert.read_back import base_without_weights, misread
from sharelora.plan.plan import SharingPlan
from sharelora.support.errors import UserError
from sharelora.support.files import write_bytes, write_json
from sharelora.support.folders import new_folder, writing
from sharelora.tuner.config import BEYOND_EXPORT, SHAREABLE_INIT
from sharelora.tuner.files import CONFIG_FILE, WEIGHTS_FILE
from sharelora.tuner.finite import require_finite

# GPT-2 keeps transposed weights under these names; PEFT does not detect it.
OVERFLOW = "the scaling is beyond what the matrices can hold; train the adapter again"
_TRANSPOSED = ("c_attn", "c_fc", "c_proj")


@dataclass(frozen=True)
class Exported:
    """What was written: the folder, adapted modules, their one rank, and elements of all matrices."""

    folder: Path
    modules: int
    rank: int
    elements: int


@dataclass(frozen=True)
class ExportedLoralib:
    """What was written: the file, adapted modules, weights of the head, and the alpha to give to loralib."""

    file: Path
    modules: int
    head: int
    alpha: float


def refuse_more_than_matrices(adapter: Adapter) -> None:
    """Refuse an adapter of which A and B alone do not say what was learned.

    Raises:
        UserError: an initialisation that also changed the base (PiSSA, OLoRA and their kin), or a variant that keeps
            something for every layer besides.
    """
    for name, what in BEYOND_EXPORT.items():
        if adapter.config.get(name):
            raise UserError(
                f"{adapter.folder} has {name}: {what}; exports and merges of files know A and B of layers alone; "
                "load it with peft"
            )
    init = adapter.config.get("init_lora_weights", True)
    if init not in SHAREABLE_INIT:
        raise UserError(
            f"{adapter.folder} was initialised with {init!r}, which changed the base weights too; its matrices alone "
            "are not a LoRA of the original base; load it with peft and use merge_and_unload"
        )


def export_lora(adapter_folder: str | Path, out_folder: str | Path, base: str | Path | None = None) -> Exported:
    """Write a compact adapter as a plain PEFT LoRA, and prove that PEFT reads it as it was written.

    The proof needs the configuration of the base, not its weights.

    Args:
        adapter_folder: as `save_pretrained` writes it.
        out_folder: a folder that does not exist yet, or is empty.
        base: folder, hub id or known name of the base model; None takes the one that the adapter names.

    Returns:
        What was written. A fused module counts as one, with the ranks of its slices added up.

    Raises:
        UserError: no complete ShareLoRA adapter there, an initialisation that rewrote the base, one that PEFT would
            read as something else, or a folder in the way.
    """
    with new_folder(out_folder, CONFIG_FILE) as folder:
        adapter = on_own_base(read_adapter(adapter_folder), base)
        refuse_more_than_matrices(adapter)
        build_base = base_without_weights(adapter, base)
        tensors, rank = _plain_tensors(adapter)
        weights = {**tensors, **adapter.others}
        require_finite(weights, f"the export of {adapter.folder}", OVERFLOW)
        with writing(out_folder):
            save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        config = _plain_config(adapter, rank)
        write_json(folder / CONFIG_FILE, config)
        if build_base is not None:
            _require_readable(folder, adapter, config, build_base)
    elements = sum(tensor.numel() for tensor in tensors.values())
    return Exported(Path(out_folder), len(adapter.plan.by_path), rank, elements)


def _plain_tensors(adapter: Adapter) -> tuple[dict[str, Tensor], int]:
    """Return A and B of every module under PEFT's names, and their one rank."""
    paths = adapter.plan.by_path
    groups = math.lcm(*(entry.site.groups for entry in adapter.plan.entries))
    rank = max(sum(entry.r for entry in entries) for entries in paths.values())
    rank += -rank % groups
    tensors: dict[str, Tensor] = {}
    for path in paths:
        # Servers know one alpha / r for a whole adapter and no ranks per module: the scaling is folded into B, and
        # both matrices are padded with zeros to the common rank.
        a, b = adapter.pair(path)
        site = paths[path][0].site
        # Each group of a convolution has its own part of the rank.
        padding = (rank - a.shape[0]) // site.groups
        rows = F.pad(a.reshape(site.groups, -1, a.shape[1]), (0, 0, 0, padding)).flatten(0, 1)
        columns = F.pad(b * adapter.scaling(path), (0, padding))
        names = plain_names(adapter.plan, path)
        tensors |= {name: t.contiguous() for name, t in zip(names, with_kernel(site, rows, columns), strict=True)}
    return tensors, rank


def plain_names(plan: SharingPlan, path: str) -> tuple[str, str]:
    """Return the names that PEFT's LoRA gives A and B of a path in a file."""
    whole = plan.owner(path)
    inside = path if whole == path else f"{whole}{BASE_LAYER}{path.rpartition('.')[2]}"
    form = "lora_embedding_{}" if plan.by_path[path][0].site.embedding else "lora_{}.weight"
    return f"{MODEL_PREFIX}{inside}.{form.format('A')}", f"{MODEL_PREFIX}{inside}.{form.format('B')}"


def _require_readable(
    folder: Path, adapter: Adapter, config: dict[str, Any], build_base: Callable[[], nn.Module]
) -> None:
    """Read an export back; what PEFT would translate into something else is named as parameters, which it leaves alone.

    Raises:
        UserError: PEFT does not read that either.
    """
    wrong, reason = misread(folder, adapter, build_base())
    if not wrong:
        return
    write_json(folder / CONFIG_FILE, {**config, **_as_parameters(adapter, wrong)})
    still_wrong, _ = misread(folder, adapter, build_base())
    if still_wrong:
        raise UserError(
            f"PEFT {version('peft')} would read {len(wrong)} modules of {adapter.folder} as something else, first "
            f"{min(wrong)} ({reason}); need modules whose names PEFT does not translate; use `sharelora merge`"
        )


def _as_parameters(adapter: Adapter, paths: set[str]) -> dict[str, Any]:
    """Return the settings that name some modules by their weights, and all others by their whole paths."""
    return {
        "target_modules": sorted(adapter.plan.by_path.keys() - paths),
        "target_parameters": sorted(f"{path}.weight" for path in paths),
        "lora_dropout": 0.0,  # PEFT has none for parameters; an export is for inference
        **dict.fromkeys(("layers_to_transform", "layers_pattern", "exclude_modules")),
    }


def _plain_config(adapter: Adapter, rank: int) -> dict[str, Any]:
    known = {field.name for field in fields(LoraConfig)}
    fields_of_lora = {name: value for name, value in adapter.config.items() if name in known or name == "peft_version"}
    transposed = any(path.rpartition(".")[2] in _TRANSPOSED for path in adapter.plan.by_path)
    uniform = {"r": rank, "lora_alpha": rank, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    plain = {"peft_type": "LORA", "init_lora_weights": True, "fan_in_fan_out": transposed, "inference_mode": True}
    return {**fields_of_lora, **uniform, **plain}


def export_loralib(adapter_folder: str | Path, out_file: str | Path, base: str | Path | None = None) -> ExportedLoralib:
    """Write a compact adapter as a flat loralib file, which `model.load_state_dict(..., strict=False)` takes.

    It holds every A and B and the head, and nothing else.

    Args:
        adapter_folder: as `save_pretrained` writes it.
        out_file: a `.safetensors` file that does not exist yet.
        base: as for `export_lora`.

    Raises:
        UserError: no complete ShareLoRA adapter there, one that loralib cannot express, or a file in the way.
    """
    adapter, file = on_own_base(read_adapter(adapter_folder), base), Path(out_file)
    refuse_more_than_matrices(adapter)
    if file.exists() or file.suffix != ".safetensors":
        raise UserError(f"found {file}; need the name of a new .safetensors file; choose another")
    if adapter.config.get("use_dora"):
        raise UserError(f"{adapter.folder} has DoRA's magnitudes, which loralib does not know; use export without it")
    odd = next((entry.site for entry in adapter.plan.entries if entry.site.kernel), None)
    if odd is not None or any(adapter.plan.owner(path) != path for path in adapter.plan.by_path):
        what = f"the convolution {odd.path}, whose LoRA has other shapes in loralib" if odd else "a MultiheadAttention"
        raise UserError(f"{adapter.folder} adapts {what}; loralib cannot express it; use export without --loralib")
    alpha = float(adapter.config["lora_alpha"])
    tensors: dict[str, Tensor] = {}
    for path, entries in adapter.plan.by_path.items():
        # As loralib's Linear and MergedLinear have them: the matrices of enabled slices one below the other.
        a = torch.cat([adapter.matrices[entry.a].float() for entry in entries])
        b = torch.cat([adapter.matrices[entry.b].float() for entry in entries])
        # loralib scales every module by alpha / r; where a module has another scaling, its B makes up for it.
        factor = adapter.scaling(path) * entries[0].r / alpha
        tensors[f"{path}.lora_A"] = a.contiguous()
        tensors[f"{path}.lora_B"] = (b if factor == 1 else b * factor).contiguous()
    heads = {name: tensor.contiguous() for name, tensor in adapter.heads().items()}
    require_finite({**tensors, **heads}, f"the export of {adapter.folder}", OVERFLOW)
    write_bytes(file, save({**tensors, **heads}, metadata={"format": "pt", "lora_alpha": str(alpha)}), replace=False)
    return ExportedLoralib(file, len(adapter.plan.by_path), len(heads), alpha)
