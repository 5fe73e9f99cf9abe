"""Trained weights as files: for methods that PEFT does not save, exactly what was trained, once, as safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sharelora.support.errors import UserError

FILE = "trained.safetensors"


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy, on the CPU, of every weight that is trained."""
    return {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in model.named_parameters()
        if value.requires_grad
    }


def put_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy weights into a model that trains exactly these.

    Raises:
        UserError: other names or shapes.
    """
    own = {name: value for name, value in model.named_parameters() if value.requires_grad}
    wrong = sorted(own.keys() ^ weights.keys()) or sorted(
        name for name, value in own.items() if value.shape != weights[name].shape
    )
    if wrong:
        name = wrong[0]
        found, need = (tuple(part[name].shape) if name in part else "none" for part in (weights, own))
        raise UserError(
            f"{source} does not fit this model: {len(wrong)} weights differ, first {name}: found {found}, need {need}; "
            "need the base, task and method that it was trained with; change --model_name_or_path or --method"
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(weights[name])


def write_weights(file: Path, weights: Mapping[str, Tensor], facts: Mapping[str, str] | None = None) -> None:
    """Write weights with a few facts in the file's header; the folder is made if it is not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(weights), file, metadata={"format": "pt", **(facts or {})})


def read_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read weights and the facts in the file's header.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with safe_open(file, framework="pt") as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}, dict(handle.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} cannot be read ({error}); need a whole safetensors file; copy it again") from error
