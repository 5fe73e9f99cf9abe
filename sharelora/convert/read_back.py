"""Prove that stock PEFT reads an exported LoRA as it was written, on a base without weights.

PEFT translates adapters of older releases of transformers by the names of their modules. In some mixtures of experts
ordinary layers have the names that routed experts had, and it takes them for these.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from sharelora.convert.adapter_file import MODEL_PREFIX, Adapter
from sharelora.convert.changes import is_trained_whole
from sharelora.models.known import meta_model_with
from sharelora.models.tensors import load_tensors
from sharelora.support.errors import UserError
from sharelora.support.text import one_line
from sharelora.tuner.files import WEIGHTS_FILE

logger = logging.getLogger(__name__)


def base_without_weights(adapter: Adapter, name: str | Path | None) -> Callable[[], nn.Module] | None:
    """Return what builds the base of an adapter, without reading or holding its weights.

    Args:
        adapter: the adapter.
        name: folder, hub id or known name of the base; None takes the one that the adapter names.

    Returns:
        None where the base is not known and not needed: PEFT translates nothing for its type, or nobody knows the type
        (then a warning says so).

    Raises:
        UserError: the base is needed and not there, or is another model.
    """
    config = adapter.config
    source = name or config.get("base_model_name_or_path")
    weights = {other.removeprefix(MODEL_PREFIX) for other in adapter.others}

    def build() -> nn.Module:
        return _without_memory(meta_model_with(str(source), adapter.plan.by_path, weights, config.get("task_type")))

    try:
        if source:
            build()
            return build
    except UserError:
        if name:
            raise
    model_type = config.get("base_model_type")
    if model_type and get_checkpoint_conversion_mapping(model_type) is None:
        return None
    if model_type:
        raise UserError(
            f"{adapter.folder} is for a {model_type} model, of which PEFT translates names of modules, and its base "
            f"{source or ''} is not found; need the base's config.json to prove that the export is read rightly; "
            "give --base"
        )
    logger.warning("the base %s is not found, so the export was not read back with PEFT; give --base", source or "")
    return None


def misread(folder: Path, adapter: Adapter, base: nn.Module) -> tuple[set[str], str]:
    """Read an exported LoRA with PEFT's own code and compare what became of it with what was written.

    Args:
        folder: of the exported LoRA.
        adapter: what was exported.
        base: its base from `base_without_weights`, which is changed.

    Returns:
        Paths of modules that would compute something else, and why; both empty if there are none.
    """
    try:
        model = _read(base, folder)
        found = get_peft_model_state_dict(model, save_embedding_layers=False)
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        return set(adapter.plan.by_path), one_line(error)
    state: dict[str, Tensor] = model.state_dict()
    written = load_tensors(folder / WEIGHTS_FILE)
    wrong = {name for name in found.keys() - written.keys()}
    for name, tensor in written.items():
        read = found.get(name, state.get(name))
        if read is not None and read.shape != tensor.shape and is_trained_whole(name, adapter.config):
            continue  # a new head; whoever reads it makes the base with as many labels
        if read is None or read.is_meta or not torch.equal(read, tensor.to(read.dtype)):
            wrong.add(name)
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    wrong |= {path for path, layer in layers.items() if layer.scaling.get("default", 1) != 1}
    paths = {path for path in adapter.plan.by_path if any(_is_within(name, MODEL_PREFIX + path) for name in wrong)}
    return (paths or set(adapter.plan.by_path), f"PEFT finds no place for {min(wrong)}") if wrong else (set(), "")


def _without_memory(model: nn.Module) -> nn.Module:
    """Put the weights of a model on the CPU as views of single numbers; PEFT moves an adapter to where its base is."""
    owners = [(m, name, weight) for m in model.modules() for name, weight in m.named_parameters(recurse=False)]
    views: dict[int, nn.Parameter] = {}
    for module, name, weight in owners:
        number = torch.zeros((), dtype=weight.dtype, device="cpu")
        view = views.setdefault(id(weight), nn.Parameter(number.expand(weight.shape), requires_grad=False))
        setattr(module, name, view)
    return model


def _is_within(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def _read(base: nn.Module, folder: Path) -> PeftModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options: dict[str, Any] = {"low_cpu_mem_usage": True, "ignore_mismatched_sizes": True, "torch_device": "cpu"}
        return PeftModel.from_pretrained(cast(Any, base), str(folder), **options)
