"""Trained weights as files, and the record of what they do not say themselves: task, labels, method, and base.

PEFT saves low-rank adapters; of other methods exactly what was trained is saved here, once, as safetensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sharelora.models.tensors import open_tensors
from sharelora.support.errors import UserError
from sharelora.support.files import sha256, write_json
from sharelora.support.reading import NAME, read_json
from sharelora.trainer.serialization import NOT_SAVED
from sharelora.tuner.config import library_versions
from sharelora.tuner.finite import require_finite

TASK = "glue_task.json"  # describes trained weights
WEIGHTS = "trained.safetensors"  # of methods that PEFT does not save
_SHAPE: Mapping[str, Any] = {
    **{"task": NAME, "labels": [NAME], "method": NAME, "settings": dict, "base": NAME, "base_sha256": NAME},
    **{"max_seq_length": range(1 << 31), "epoch?": (float, None), "weights_sha256?": (NAME, None)},
    "versions?": {...: NAME},
}
_SAMPLE = 64  # elements of each weight that tell bases apart


@dataclass(frozen=True)
class Record:
    """What is written with trained weights.

    Attributes:
        task: its name.
        labels: names of the classes in the order of the head's outputs; none for regression.
        method: a name in `METHODS`, or `share` for a plan that has none.
        settings: what the method needs to be built again, e.g. `adapter_size`.
        base: name of the base model.
        base_sha256: see `fingerprint`.
        max_seq_length: tokens of a row.
        epoch: when these weights were those of the model.
        weights_sha256: checksum of weights that PEFT does not save; an adapter's is in its own configuration.
        versions: libraries that wrote them.
    """

    task: str
    labels: tuple[str, ...]
    method: str
    settings: dict[str, Any]
    base: str
    base_sha256: str
    max_seq_length: int
    epoch: float | None = None
    weights_sha256: str | None = None
    versions: dict[str, str] = field(default_factory=library_versions)

    def write(self, folder: Path, epoch: float | None) -> None:
        """Write the record into a folder of weights, with the checksum of those that PEFT does not save.

        Args:
            folder: holds the weights already.
            epoch: when these were the model's weights.
        """
        weights = folder / WEIGHTS
        checksum = sha256(weights) if weights.is_file() else None
        write_json(folder / TASK, asdict(replace(self, epoch=epoch, weights_sha256=checksum)))


def read_record(folder: Path) -> Record | None:
    """Return the record in a folder of weights, or None.

    Raises:
        UserError: it is damaged.
    """
    if not (folder / TASK).is_file():
        return None
    content = read_json(folder / TASK, _SHAPE)
    known = {item.name for item in fields(Record)}
    return Record(**{**{name: content[name] for name in known & content.keys()}, "labels": tuple(content["labels"])})


def fingerprint(model: nn.Module, without: Collection[str] = ()) -> str:
    """Return a checksum that tells bases of the same shape apart: over the beginning of every weight, as fp32.

    Args:
        model: as it was loaded.
        without: modules that are new in every run, by path.
    """
    digest = hashlib.sha256()
    new = tuple(f"{path}." for path in without)
    for name, weight in sorted(model.named_parameters()):
        if not name.startswith(new):
            digest.update(f"{name} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().flatten()[:_SAMPLE].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def check_record(record: Record, task: str, labels: tuple[str, ...], where: Path) -> None:
    """Refuse to evaluate weights of another task.

    Raises:
        UserError: another task, or other labels.
    """
    if record.task != task:
        raise UserError(f"{where} was trained for {record.task}; found task {task}; give an adapter of {task}")
    if record.labels != labels:
        raise UserError(
            f"{where} was trained for the labels {', '.join(record.labels) or 'scores'}; found "
            f"{', '.join(labels) or 'scores'}; give an adapter that was trained on these labels"
        )


def check_base(record: Record, found: str, where: Path) -> None:
    """Refuse weights that were trained on another base.

    Raises:
        UserError: the fingerprints differ.
    """
    if record.base_sha256 != found:
        raise UserError(
            f"{where} was trained on the weights of {record.base}, and this model has others; need its own base; "
            "change --model_name_or_path"
        )


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
    """Write weights with a few facts in the file's header; the folder is made if it is not there.

    Raises:
        UserError: they have NaN or infinite numbers.
    """
    require_finite(weights, "the trained weights", NOT_SAVED)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(weights), file, metadata={"format": "pt", **(facts or {})})


def read_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read weights and the facts in the file's header.

    Raises:
        UserError: the file is missing or damaged.
    """
    with open_tensors(file) as handle:
        return {name: handle.get_tensor(name) for name in handle.keys()}, dict(handle.metadata() or {})
