"""A base model as files: where each weight lies, and how its modules are shaped."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import huggingface_hub
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.pytorch_utils import Conv1D

from sharelora.architectures import meta_model
from sharelora.errors import UserError
from sharelora.files import read_json
from sharelora.models import locate_model
from sharelora.plan import SharingPlan
from sharelora.tensor_header import tensor_shapes

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# What is not copied into a merged folder: weights of any format, and the index, which is written anew.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".msgpack", ".h5", ".ot", ".gguf", INDEX)


@dataclass(frozen=True)
class BaseFolder:
    """A base model's folder.

    Attributes:
        folder: where it lies.
        model: the same model on the meta device.
        shapes: weight's name in the files -> shape.
        shards: file name -> names of the weights in it.
    """

    folder: Path
    model: nn.Module
    shapes: dict[str, tuple[int, ...]]
    shards: dict[str, list[str]]

    @property
    def bytes(self) -> int:
        """Size of all weights' files."""
        return sum((self.folder / shard).stat().st_size for shard in self.shards)

    @cached_property
    def renamed(self) -> dict[str, str]:
        """Name that transformers gives a weight when it loads the files -> the name there, where the two differ.

        LLaVA's files, for one, are older than the places of its parts in the model.
        """
        model: Any = self.model
        renamings = [rule for rule in get_model_conversion_mapping(model) if isinstance(rule, WeightRenaming)]
        names = {name: rename_source_key(name, renamings, [])[0] for name in self.shapes}
        return {loaded: name for name, loaded in names.items() if loaded != name}

    def stored(self, name: str) -> str | None:
        """Return the name in the files of a weight of the model: some files leave the base's prefix out, or add it."""
        prefix = f"{self.model.base_model_prefix}."
        candidates = (name, name.removeprefix(prefix), prefix + name)
        held = next((candidate for candidate in candidates if candidate in self.shapes), None)
        return held or next((self.renamed[candidate] for candidate in candidates if candidate in self.renamed), None)

    def module(self, path: str) -> nn.Module | None:
        """Return the module of a path that an adapter names, or None."""
        known = dict(self.model.named_modules())
        prefix = f"{self.model.base_model_prefix}."
        candidates = (path, path.removeprefix(prefix), prefix + path)
        return next((known[candidate] for candidate in candidates if candidate in known), None)

    def is_transposed(self, path: str) -> bool:
        """Whether a module stores its weight as (D_in, D_out), as GPT-2 does."""
        return isinstance(self.module(path), Conv1D)

    def check(self, plan: SharingPlan) -> None:
        """Compare the plan's sites with the files.

        Raises:
            UserError: a site that the base lacks or that has another shape there.
        """
        for path, entries in plan.by_path.items():
            site, name = entries[0].site, self.stored(f"{path}.weight")
            need = (site.d_out * site.parts, site.d_in)
            need = (need[1], need[0]) if self.is_transposed(path) else need
            found = self.shapes[name] if name else "none"
            if found != need:
                raise UserError(
                    f"the adapter was made for another model: for {path} it needs a weight of shape {need}, "
                    f"{self.folder} has {found}; give the adapter's own base"
                )

    def copy_rest(self, target: Path) -> None:
        """Copy configuration, tokenizer and everything else that is not weights."""
        for file in sorted(self.folder.iterdir()):
            if file.is_file() and not file.name.endswith(_WEIGHTS) and not file.name.startswith("."):
                shutil.copyfile(file, target / file.name)


def _download(name_or_path: str) -> Path:
    place = Path(locate_model(name_or_path))
    if place.is_dir():
        return place
    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "LICENSE*"]
    return Path(huggingface_hub.snapshot_download(name_or_path, allow_patterns=patterns))


def _refuse_quantized(folder: Path, config: dict[str, Any]) -> None:
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "some method")
        raise UserError(
            f"{folder} holds weights quantised with {method}; need the 16- or 32-bit model that it was made of; "
            "merging into quantised weights would round the adapter away"
        )


def read_base(name_or_path: str | Path) -> BaseFolder:
    """Find a base model's files and read their headers, not the weights.

    Raises:
        UserError: the model is missing, incomplete, pickled or quantised.
    """
    folder = _download(str(name_or_path))
    _refuse_quantized(folder, read_json(folder / "config.json"))
    if (folder / INDEX).is_file():
        files = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
    else:
        files = [SINGLE]
    shards = {file: tensor_shapes(folder / file) for file in files}
    shapes = {name: shape for found in shards.values() for name, shape in found.items()}
    return BaseFolder(folder, meta_model(folder), shapes, {file: list(found) for file, found in shards.items()})
