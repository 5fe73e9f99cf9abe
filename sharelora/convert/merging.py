"""Merge an adapter into a base, from files to files: no live model is changed, the base's folder least of all."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.pytorch_utils import Conv1D

from sharelora.convert.adapter_file import Adapter, new_folder, read_adapter
from sharelora.convert.exporting import refuse_rewritten_base
from sharelora.models.known import meta_model
from sharelora.models.load import resolve_model
from sharelora.plan.plan import SharingPlan
from sharelora.support.errors import UserError
from sharelora.support.files import read_json, write_json
from sharelora.support.tensor_header import tensor_shapes
from sharelora.support.text import size
from sharelora.tuner.quantization import has_bitsandbytes

logger = logging.getLogger(__name__)


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FULL_PRECISION = (None, "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Merged:
    """What was written: the folder, weights that the adapter changed, weights in all, and what to know about it."""

    folder: Path
    changed: int
    tensors: int
    note: str | None


def merged_weight(weight: Tensor, delta: Tensor, magnitude: Tensor | None, transposed: bool) -> Tensor:
    """Return a base weight with an adapter in it, in fp32.

    Args:
        weight: (D_out, D_in), or (D_in, D_out) if transposed.
        delta: scaling * B A, (D_out, D_in).
        magnitude: DoRA's, (D_out,); the rows of the sum are scaled to it (arXiv 2402.09353, section 4.1).
        transposed: how the weight is stored.
    """
    whole = (weight.t() if transposed else weight).float() + delta
    if magnitude is not None:
        whole = whole * (magnitude.float() / whole.norm(dim=1))[:, None]
    return whole.t() if transposed else whole


def _delta(adapter: Adapter, path: str) -> Tensor:
    a, b = adapter.pair(path)
    return adapter.scaling(path) * (b @ a)


def _new_weight(base: BaseFolder, adapter: Adapter, path: str, weight: Tensor) -> Tensor:
    return merged_weight(weight, _delta(adapter, path), adapter.magnitude(path), base.is_transposed(path))


def _targets(base: BaseFolder, adapter: Adapter) -> dict[str, str]:
    """Return the weights that the adapter changes: name in the files -> module path."""
    return {str(base.stored(f"{path}.weight")): path for path in adapter.plan.by_path}


def _heads(base: BaseFolder, adapter: Adapter) -> dict[str, Tensor]:
    """Return trained copies of the base's own weights under the names they have, or will have, in the files.

    Raises:
        UserError: a weight that has no place in the base, or another shape there: only whole modules that the
            configuration names (a new classifier) may differ.
    """
    modules = set(adapter.config.get("modules_to_save") or ())
    heads = {base.stored(name) or name: tensor for name, tensor in adapter.heads().items()}
    for name, tensor in heads.items():
        found = base.shapes.get(name)
        if found != tuple(tensor.shape) and not modules & set(name.split(".")):
            raise UserError(
                f"the adapter holds {name} of shape {tuple(tensor.shape)}; the base has {found or 'none'}; "
                "merge with peft, which can resize a live model"
            )
    return heads


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _merge_shard(
    base: BaseFolder, adapter: Adapter, file: str, replaced: dict[str, Tensor], dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Return one file's weights with the adapter in them: the sum in fp32, rounded once."""
    targets, done = _targets(base, adapter), {}
    with safe_open(base.folder / file, framework="pt") as shard:
        for name in base.shards[file]:
            weight = shard.get_tensor(name)
            if name in targets:
                weight = _new_weight(base, adapter, targets[name], weight).to(dtype or weight.dtype)
            elif name in replaced:
                weight = replaced[name].to(weight.dtype)
            done[name] = _cast(weight, dtype).contiguous()
    return done


def _write_weights(base: BaseFolder, adapter: Adapter, target: Path, dtype: torch.dtype | None) -> int:
    """Write the weights file by file, so that one of them at a time is in memory; return how many there are."""
    heads = _heads(base, adapter)
    new = {name: _cast(tensor, dtype) for name, tensor in heads.items() if name not in base.shapes}
    where: dict[str, str] = {}
    total = 0
    for index, file in enumerate(base.shards):
        weights = _merge_shard(base, adapter, file, heads, dtype)
        weights |= new if index == 0 else {}
        save_file(weights, target / file, metadata={"format": "pt"})
        where |= dict.fromkeys(weights, file)
        total += sum(weight.nbytes for weight in weights.values())
    if (base.folder / INDEX).is_file():
        write_json(target / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
    return len(where)


def _write_config(base: BaseFolder, adapter: Adapter, target: Path, dtype: torch.dtype | None) -> None:
    """Adapt the copied configuration: the dtype asked for, and the class and labels of a trained classifier."""
    config = read_json(target / "config.json")
    if dtype is not None:
        config.pop("torch_dtype", None)
        config["dtype"] = str(dtype).removeprefix("torch.")
    write_json(target / "config.json", {**config, **_classifier(base, adapter)})


def _classifier(base: BaseFolder, adapter: Adapter) -> dict[str, Any]:
    heads = adapter.heads()
    if adapter.config.get("task_type") != "SEQ_CLS" or not heads:
        return {}
    config: Any = base.model.config
    made: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    matrices = [tensor for name, tensor in heads.items() if name.endswith("weight") and tensor.ndim == 2]
    facts: dict[str, Any] = {"architectures": [made.__name__]}
    if matrices and matrices[-1].shape[0] != len(config.id2label):
        names = [f"LABEL_{index}" for index in range(matrices[-1].shape[0])]
        facts |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    return facts


def quantization_error(base: BaseFolder, kind: str, paths: Iterable[str]) -> float | None:
    """Return how far quantised weights are from the base's, relative to their norm; None without bitsandbytes."""
    if not has_bitsandbytes() or kind not in ("nf4", "fp4"):
        return None
    from bitsandbytes import functional

    wrong = whole = 0.0
    for path in paths:
        name = base.stored(f"{path}.weight")
        file = next(file for file, names in base.shards.items() if name in names)
        with safe_open(base.folder / file, framework="pt") as shard:
            weight = shard.get_tensor(name).float()
        packed, state = functional.quantize_4bit(weight, quant_type=kind, compress_statistics=True)
        wrong += float((functional.dequantize_4bit(packed, state).float() - weight).square().sum())
        whole += float(weight.square().sum())
    return (wrong / whole) ** 0.5


def _difference(base: BaseFolder, adapter: Adapter) -> str | None:
    """Say what differs from the model that was trained, if its base was quantised."""
    kind = adapter.config.get("trained_on")
    if kind in FULL_PRECISION:
        return None
    first = {entry.site.kind: entry.site.path for entry in reversed(adapter.plan.entries)}
    error = quantization_error(base, str(kind), set(first.values()))
    measured = f" by {error:.1%} of their norm (measured on {len(first)} of them)" if error is not None else ""
    return (
        f"the adapter was trained on a {kind} base, whose weights differ from those merged into{measured}; "
        "the merged model is close to the one that was trained and not equal to it: evaluate it again"
    )


def _check_room(base: BaseFolder, out: Path, dtype: torch.dtype | None) -> None:
    parent = next(folder for folder in out.resolve().parents if folder.exists())
    free = shutil.disk_usage(parent).free
    elements = sum(math.prod(shape) for shape in base.shapes.values())
    need = base.bytes if dtype is None else elements * dtype.itemsize
    if free < need:
        raise UserError(f"found {size(free)} free for {out}; need {size(need)}; free space or choose another disk")


def merge(base: str | Path, adapter_folder: str | Path, out_folder: str | Path, dtype: str | None = None) -> Merged:
    """Write a plain model: base weights plus scaling * B A, computed in fp32 and rounded once.

    A pure function of its two folders, which stay as they are; the base's files are streamed one by one.

    Args:
        base: folder or hub id of a base in 16 or 32 bits.
        adapter_folder: a compact adapter for it.
        out_folder: a folder that does not exist yet.
        dtype: `fp32`, `bf16` or `fp16` of all weights; None keeps each weight's own.

    Returns:
        What was written; the note says what differs if the adapter was trained on a quantised base.

    Raises:
        UserError: a base that is quantised or not the adapter's, a damaged adapter, no room, or a folder in the way.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"found dtype {dtype!r}; need one of {', '.join(DTYPES)}; change --dtype")
    adapter, place = read_adapter(adapter_folder), read_base(base)
    refuse_rewritten_base(adapter)
    place.check(adapter.plan)
    kind = None if dtype is None else DTYPES[dtype]
    _check_room(place, Path(out_folder), kind)
    with new_folder(out_folder) as folder:
        place.copy_rest(folder)
        tensors = _write_weights(place, adapter, folder, kind)
        _write_config(place, adapter, folder, kind)
    note = _difference(place, adapter)
    if note:
        logger.warning("%s", note)
    return Merged(Path(out_folder), len(adapter.plan.by_path) + len(adapter.heads()), tensors, note)


# A base model as files: where each weight lies, and how its modules are shaped.


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
    place = Path(resolve_model(name_or_path))
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
