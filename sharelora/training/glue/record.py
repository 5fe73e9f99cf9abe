"""What a file of weights does not say by itself: task, labels, method, and which base it was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from sharelora.support.errors import UserError
from sharelora.support.files import read_json, write_json
from sharelora.tuner.config import library_versions

FILE = "glue_task.json"
_SAMPLE = 64  # elements of each weight that tell bases apart


@dataclass(frozen=True)
class Record:
    """What is written beside trained weights.

    Attributes:
        task: its name.
        labels: names of the classes in the order of the head's outputs; none for regression.
        method: a name in `METHODS`, or `share` for a plan that has none.
        settings: what the method needs to be built again, e.g. `adapter_size`.
        base: name of the base model.
        base_sha256: see `fingerprint`.
        max_seq_length: tokens of a row.
        epoch: when these weights were those of the model.
        weights_sha256: checksum of weights that PEFT does not save; an adapter's stands in its own configuration.
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

    def write(self, folder: Path) -> None:
        """Write the record into a folder of weights."""
        write_json(folder / FILE, asdict(self))


def read_record(folder: Path) -> Record | None:
    """Return the record in a folder of weights, or None.

    Raises:
        UserError: it is damaged.
    """
    if not (folder / FILE).is_file():
        return None
    found = read_json(folder / FILE)
    known = {item.name for item in fields(Record)}
    if not isinstance(found, dict) or not known - {"epoch", "weights_sha256", "versions"} <= found.keys():
        raise UserError(f"{folder / FILE} lacks what it should say; it is damaged; copy the folder again")
    return Record(**{**{name: found[name] for name in known & found.keys()}, "labels": tuple(found["labels"])})


def fingerprint(model: torch.nn.Module, without: Collection[str] = ()) -> str:
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
