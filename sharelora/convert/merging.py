"""Merging an adapter into a base, from files to files: no live model is changed, nor the base's folder."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from sharelora.convert.adapter_file import Adapter, read_adapter
from sharelora.convert.base_folder import BaseFolder, read_base
from sharelora.convert.changes import Changes, find_changes
from sharelora.convert.exporting import refuse_more_than_matrices
from sharelora.convert.on_base import on_base
from sharelora.models.tensors import open_tensors
from sharelora.support.errors import UserError
from sharelora.support.files import write_json
from sharelora.support.folders import new_folder, writing
from sharelora.support.hub import INDEX
from sharelora.support.reading import read_json
from sharelora.support.text import size
from sharelora.tuner.finite import require_finite
from sharelora.tuner.quantization import has_bitsandbytes
from sharelora.tuner.tied import FLAG, tying_configs

logger = logging.getLogger(__name__)

CONFIG = "config.json"  # of a model
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Merged:
    """What was written: the folder, weights that the adapter changed, weights in all, and a remark on the result."""

    folder: Path
    changed: int
    tensors: int
    note: str | None


def merge(base: str | Path, adapter_folder: str | Path, out_folder: str | Path, dtype: str | None = None) -> Merged:
    """Write a plain model: base weights plus scaling * B A, computed in fp32 and rounded once.

    A pure function of its two folders, which stay as they are; the base's files are streamed one by one.

    Args:
        base: folder or hub id of a base in 16 or 32 bits.
        adapter_folder: a compact adapter for it.
        out_folder: a folder that does not exist yet, or is empty.
        dtype: `fp32`, `bf16` or `fp16` of all weights; None keeps each weight's own.

    Returns:
        What was written; the note says what differs if the adapter was trained on a quantised base.

    Raises:
        UserError: a base that is quantised or not the adapter's, a damaged adapter, no room, or a folder in the way.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"found dtype {dtype!r}; need one of {', '.join(DTYPES)}; change --dtype")
    with new_folder(out_folder, CONFIG) as folder:
        adapter, base_folder = read_adapter(adapter_folder), read_base(base)
        refuse_more_than_matrices(adapter)
        adapter.refuse_groups("merged: what it learned reads inputs that the base's weights of a group do not")
        adapter = on_base(adapter, base_folder.model, base_folder.spelled_modules)
        base_folder.check(adapter.plan)
        torch_dtype = None if dtype is None else DTYPES[dtype]
        changes = find_changes(base_folder, adapter)
        _require_disk(base_folder, folder, torch_dtype, changes.copies)
        with writing(out_folder):
            base_folder.copy_rest(folder)
        tensors = _write_weights(base_folder, adapter, changes, folder, torch_dtype)
        _write_config(base_folder, adapter, folder, torch_dtype, changes.unties)
    note = _quantisation_note(base_folder, adapter)
    if note:
        logger.warning("%s", note)
    return Merged(Path(out_folder), changes.count(), tensors, note)


def _require_disk(base: BaseFolder, out: Path, dtype: torch.dtype | None, copies: Mapping[str, Sequence[str]]) -> None:
    free = shutil.disk_usage(out).free
    sizes = {name: math.prod(shape) for name, shape in base.shapes.items()}
    elements = sum(sizes.values())
    copied = sum(sizes[name] * len(names) for name, names in copies.items())
    need = (elements + copied) * (base.bytes / max(elements, 1) if dtype is None else dtype.itemsize)
    if free < need:
        raise UserError(
            f"found {size(free)} free for {out.parent}; need {size(need)}; free space or choose another disk"
        )


def merged_weight(weight: Tensor, delta: Tensor, magnitude: Tensor | None, transposed: bool) -> Tensor:
    """Return a base weight with an adapter in it, in fp32.

    Args:
        weight: (D_out, D_in), or (D_in, D_out) if transposed; of a convolution (D_out, D_in, *kernel), which is
            (D_out, D_in * positions of the kernel) to the others.
        delta: scaling * B A, (D_out, D_in).
        magnitude: DoRA's, (D_out,); the rows of the sum are scaled to it (arXiv 2402.09353, section 4.1).
        transposed: how the weight is stored.
    """
    merged = (weight.t() if transposed else weight).float().flatten(1) + delta
    if magnitude is not None:
        merged = merged * (magnitude.float() / merged.norm(dim=1))[:, None]
    return merged.t() if transposed else merged.reshape(weight.shape)


def _write_weights(
    base: BaseFolder, adapter: Adapter, changes: Changes, target: Path, dtype: torch.dtype | None
) -> int:
    """Write the weights file by file, so that one of them at a time is in memory; return how many there are."""
    old = {*base.shapes, *chain.from_iterable(changes.copies.values())}
    new = {name: _cast(tensor, dtype) for name, tensor in changes.trained.items() if name not in old}
    weight_map: dict[str, str] = {}
    total = 0
    for index, file in enumerate(base.shards):
        weights = _merged_shard(base, adapter, changes, file, dtype)
        weights |= new if index == 0 else {}
        require_finite(
            weights,
            f"the merged weights of {base.folder / file}",
            "look for them in the base, or give --dtype fp32 if its numbers are beyond what another holds",
        )
        with writing(target.parent / file):
            save_file(weights, target / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(weights, file)
        total += sum(weight.nbytes for weight in weights.values())
    if (base.folder / INDEX).is_file():
        write_json(target / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return len(weight_map)


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _merged_shard(
    base: BaseFolder, adapter: Adapter, changes: Changes, file: str, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Return one file's weights with the adapter in them: the sum in fp32, rounded once.

    Args:
        base, adapter, changes: what is merged.
        file: of the base.
        dtype: None keeps each weight's own.
    """
    weights = {}
    with open_tensors(base.folder / file) as shard:
        for stored in base.shards[file]:
            tensor = shard.get_tensor(stored)
            own_dtype = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
            tensor = _with_rows(changes.replaced.get(stored, tensor), changes.rows.get(stored))
            for name in (stored, *changes.copies.get(stored, ())):
                weight = _with_rows(changes.trained.get(name, tensor), changes.own_rows.get(name))
                if name in changes.paths:
                    path = changes.paths[name]
                    a, b = adapter.pair(path)
                    delta = adapter.scaling(path) * (b @ a)
                    weight = merged_weight(weight, delta, adapter.magnitude(path), base.is_transposed(path))
                # A copy of its own for every name: a file has no two names of one tensor.
                weights[name] = weight.to(own_dtype, copy=name != stored).contiguous()
    return weights


def _with_rows(weight: Tensor, rows: tuple[Tensor, Tensor] | None) -> Tensor:
    """Return a weight with new rows, given as indices and rows."""
    return weight if rows is None else weight.index_copy(0, rows[0], rows[1].to(weight.dtype))


def _write_config(base: BaseFolder, adapter: Adapter, target: Path, dtype: torch.dtype | None, untied: bool) -> None:
    """Adapt the copied configuration: its dtype, what is tied, and the class and labels of a trained classifier."""
    config = read_json(target / CONFIG)
    base_config: Any = base.model.config
    if dtype is not None:
        config.pop("torch_dtype", None)
        config["dtype"] = str(dtype).removeprefix("torch.")
    for path, _ in tying_configs(base_config) if untied else ():
        nested = config
        for name in path:
            nested = nested.setdefault(name, {})
        nested[FLAG] = False  # written even where it was absent: Gemma's default is true
    heads = adapter.heads()
    if adapter.config.get("task_type") == "SEQ_CLS" and heads:
        classifier: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(base_config)]
        config["architectures"] = [classifier.__name__]
        matrices = [tensor for name, tensor in heads.items() if name.endswith("weight") and tensor.ndim == 2]
        if matrices and matrices[-1].shape[0] != len(base_config.id2label):
            labels = [f"LABEL_{index}" for index in range(matrices[-1].shape[0])]
            config["id2label"] = dict(enumerate(labels))
            config["label2id"] = {label: index for index, label in enumerate(labels)}
    write_json(target / CONFIG, config)


def _quantisation_note(base: BaseFolder, adapter: Adapter) -> str | None:
    """Return what differs from the model that was trained, if its base was quantised."""
    precision = adapter.config.get("trained_on")
    if precision is None or precision in DTYPES:
        return None
    first_of_kind = {entry.site.kind: entry.site.path for entry in reversed(adapter.plan.entries)}
    error = quantization_error(base, str(precision), set(first_of_kind.values()))
    measured = f" by {error:.1%} of their norm (measured on {len(first_of_kind)} of them)" if error is not None else ""
    return (
        f"the adapter was trained on a {precision} base, whose weights differ from those merged into{measured}; "
        "the merged model is close to the one that was trained and not equal to it: evaluate it again"
    )


def quantization_error(base: BaseFolder, quant_type: str, paths: Iterable[str]) -> float | None:
    """Return how far 4-bit weights are from the base's, relative to their norm; None without bitsandbytes."""
    if not has_bitsandbytes() or quant_type not in ("nf4", "fp4"):
        return None
    from bitsandbytes import functional  # optional

    squared_error = squared_norm = 0.0
    for path in paths:
        name = base.stored(f"{path}.weight")
        file = next(file for file, names in base.shards.items() if name in names)
        with open_tensors(base.folder / file) as shard:
            weight = shard.get_tensor(name).float()
        packed, state = functional.quantize_4bit(weight, quant_type=quant_type, compress_statistics=True)
        squared_error += float((functional.dequantize_4bit(packed, state).float() - weight).square().sum())
        squared_norm += float(weight.square().sum())
    return (squared_error / squared_norm) ** 0.5
