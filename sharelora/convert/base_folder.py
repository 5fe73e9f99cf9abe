"""A base model as files: which file holds each weight, and how its modules are shaped."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import huggingface_hub
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.pytorch_utils import Conv1D

from sharelora.models.config_file import read_model_config
from sharelora.models.known import meta_model
from sharelora.models.load import resolve_model
from sharelora.plan.plan import SharingPlan
from sharelora.support.errors import UserError
from sharelora.support.hub import INDEX, shards_of
from sharelora.support.reading import open_file
from sharelora.support.tensor_header import tensor_shapes

SINGLE = "model.safetensors"
POOLER = "pooler"  # BERT's is part of the backbone and trains with the head
# Files of a model that are weights, in any format, or their index.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".msgpack", ".h5", ".ot", ".gguf", INDEX)


@dataclass(frozen=True)
class BaseFolder:
    """A base model's folder.

    Attributes:
        folder: of the model.
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
        """Size of all files of weights."""
        return sum((self.folder / shard).stat().st_size for shard in self.shards)

    @cached_property
    def renamed(self) -> dict[str, str]:
        """Name that transformers gives a weight when it loads the files -> its name in them, where the two differ.

        LLaVA's files, for one, have the names of an earlier structure of the model.
        """
        model: Any = self.model
        renamings = [rule for rule in get_model_conversion_mapping(model) if isinstance(rule, WeightRenaming)]
        names = {name: rename_source_key(name, renamings, [])[0] for name in self.shapes}
        return {loaded: name for name, loaded in names.items() if loaded != name}

    @cached_property
    def tied(self) -> dict[str, tuple[str, ...]]:
        """Name of a tied weight of the model -> every name of the same tensor; the files need not have all of them."""
        groups: dict[str, list[str]] = {}
        for target, source in getattr(self.model, "all_tied_weights_keys", {}).items():
            groups.setdefault(source, [source]).append(target)
        return {name: tuple(names) for names in groups.values() for name in names}

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """Module path -> module on the meta device."""
        return dict(self.model.named_modules())

    def _spellings(self, name: str) -> tuple[str, ...]:
        """Return a name as it is, without and with the prefix of the base, which some files and adapters leave out."""
        prefix = f"{self.model.base_model_prefix}."
        if isinstance(self.modules.get(name.removesuffix(".weight")), nn.MultiheadAttention):
            name = f"{name.removesuffix('.weight')}.in_proj_weight"
        return name, name.removeprefix(prefix), prefix + name

    @cached_property
    def spelled_modules(self) -> set[str]:
        """Paths of the modules, in every spelling in which an adapter may have them."""
        prefix = f"{self.model.base_model_prefix}."
        return {spelling for path in self.modules for spelling in (path, path.removeprefix(prefix), prefix + path)}

    def own(self, name: str) -> str | None:
        """Return the name in the files of a weight of the model, or None; that of a tied one does not count."""
        spellings = self._spellings(name)
        stored = next((spelling for spelling in spellings if spelling in self.shapes), None)
        return stored or next((self.renamed[spelling] for spelling in spellings if spelling in self.renamed), None)

    def written(self, name: str) -> str:
        """Return the name under which a weight of the model is written: that in the files, else the model's."""
        return self.own(name) or next((spelling for spelling in self._spellings(name) if spelling in self.tied), name)

    def stored(self, name: str) -> str | None:
        """Return the name in the files of a weight of the model, or of one that is tied to it, or None."""
        spelling = next((spelling for spelling in self._spellings(name) if spelling in self.tied), name)
        names = (spelling, *self.tied.get(spelling, ()))
        return next((stored for stored in map(self.own, names) if stored), None)

    def is_input_embedding(self, name: str) -> bool:
        """Whether a weight of the model is that of its input embeddings."""
        embedding = cast(Any, self.model).get_input_embeddings()
        return any(self.modules.get(path.rpartition(".")[0]) is embedding for path in self._spellings(name))

    def is_transposed(self, path: str) -> bool:
        """Whether a module stores its weight as (D_in, D_out), as GPT-2 and embeddings do."""
        spellings = self._spellings(path)
        module = next((self.modules[spelling] for spelling in spellings if spelling in self.modules), None)
        return isinstance(module, Conv1D | nn.Embedding)

    def check(self, plan: SharingPlan) -> None:
        """Compare the plan's sites with the files.

        Raises:
            UserError: a site that the base lacks or that has another shape there.
        """
        for path, entries in plan.by_path.items():
            site, name = entries[0].site, self.stored(f"{path}.weight")
            need = site.weight_shape[::-1] if self.is_transposed(path) else site.weight_shape
            shape = self.shapes[name] if name else "none"
            if shape != need:
                raise UserError(
                    f"the adapter was made for another model: for {path} it needs a weight of shape {need}, "
                    f"{self.folder} has {shape}; give the adapter's own base"
                )

    def require_complete(self) -> None:
        """Refuse a base that lacks a weight of its backbone; a head, and the pooler before it, may be new.

        Raises:
            UserError: a weight is in none of the files.
        """
        model: Any = self.model
        rules = get_model_conversion_mapping(model)
        if any(not isinstance(rule, WeightRenaming) for rule in rules):
            return  # these files have other weights, of which those of the model are made
        prefix = model.base_model_prefix
        inside = f"{prefix}." if hasattr(model, prefix) else ""
        made = [*(model._keys_to_ignore_on_load_missing or ()), rf"(.*\.)?{POOLER}\."]
        lacking = [
            name
            for name, _ in model.named_parameters()
            if name.startswith(inside)
            and self.stored(name) is None
            and not any(re.search(pattern, name) for pattern in made)
        ]
        if lacking:
            raise UserError(
                f"{self.folder} lacks {len(lacking)} weights of its architecture, first {lacking[0]}; need a complete "
                "model; copy it again"
            )

    def copy_rest(self, target: Path) -> None:
        """Copy configuration, tokenizer and everything else that is not weights.

        Raises:
            UserError: one of them cannot be read; what the target lacks is for whoever made it to say.
        """
        for file in sorted(self.folder.iterdir()):
            if file.is_file() and not file.name.endswith(_WEIGHTS) and not file.name.startswith("."):
                with open_file(file) as source, open(target / file.name, "wb") as copy:
                    shutil.copyfileobj(source, copy)


def read_base(name_or_path: str | Path) -> BaseFolder:
    """Find a base model's files and read their headers, not the weights.

    Raises:
        UserError: the model is missing, incomplete, pickled or quantised.
    """
    folder = Path(resolve_model(str(name_or_path)))
    if not folder.is_dir():
        patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "LICENSE*"]
        folder = Path(huggingface_hub.snapshot_download(str(name_or_path), allow_patterns=patterns))
    quantization = read_model_config(folder).get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "some method")
        raise UserError(
            f"{folder} holds weights quantised with {method}; need the 16- or 32-bit model that it was made from; "
            "merging into quantised weights would round the adapter away"
        )
    indexed = shards_of(folder) if (folder / INDEX).is_file() else {SINGLE: []}
    shards = {file: tensor_shapes(folder / file) for file in indexed}
    for file, expected in indexed.items():
        lacking = next((name for name in expected if name not in shards[file]), None)
        if lacking is not None:
            raise UserError(f"{folder / file} lacks {lacking}, which {INDEX} says is in it; copy the model again")
    shapes = {name: shape for tensors in shards.values() for name, shape in tensors.items()}
    names = {file: list(tensors) for file, tensors in shards.items()}
    base = BaseFolder(folder, meta_model(folder), shapes, names)
    base.require_complete()
    return base
