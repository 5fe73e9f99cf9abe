"""Write a compact adapter as loralib keeps one: a flat dict of every A and B and of the head, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from sharelora.checkpoint.export import refuse_rewritten_base
from sharelora.checkpoint.folder import Adapter, read_adapter
from sharelora.errors import UserError
from sharelora.files import write_bytes


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
