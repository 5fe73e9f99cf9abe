"""Plain LoRA checkpoints of other tools as data: PEFT folders and loralib's flat files."""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sharelora.convert.adapter_file import (
    MAGNITUDE,
    MODEL_PREFIX,
    OWN_TYPE,
    Adapter,
    load_tensors,
    pattern_value,
    read_adapter,
)
from sharelora.convert.exporting import refuse_rewritten_base
from sharelora.models.adapter import resolve_adapter
from sharelora.models.known import is_encoder, meta_classifier, meta_model, model_config
from sharelora.support.errors import UserError
from sharelora.support.files import read_json
from sharelora.tuner.config import CONFIG_FILE, SHAREABLE_INIT, UNSUPPORTED, WEIGHTS_FILE

logger = logging.getLogger(__name__)


# What of a PEFT configuration means the same here. Ranks and alphas are read from the matrices and scalings.
_CARRIED = (
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "use_dora",
    "bias",
    "modules_to_save",
    "task_type",
    "base_model_name_or_path",
    "revision",
    "trained_on",
)
# What parallel wrappers put before the names, and training states around the weights.
_WRAPPER, _NESTED = "module.", ("model_state_dict", "state_dict", "model")


@dataclass(frozen=True)
class Source:
    """A plain LoRA: one A and one B per module.

    Attributes:
        name: where it came from, for messages.
        settings: fields of the configuration to write.
        pairs: module path -> A, (r, D_in), and B, (D_out, r).
        scalings: module path -> the factor of B A.
        others: weights beside the adapter, under the names that a saved adapter gives them.
        complete: whether all of them were trained; a whole state dict holds the frozen base too.
        parts: fused modules and their enabled slices, where the source says them.
        elements: of all its matrices, where some are shared.
    """

    name: str
    settings: dict[str, Any]
    pairs: dict[str, tuple[Tensor, Tensor]]
    scalings: dict[str, float]
    others: dict[str, Tensor]
    complete: bool
    parts: dict[str, list[bool]] = field(default_factory=dict)
    elements: int | None = None


def _split(name: str, tensors: Mapping[str, Tensor]) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """Separate A and B per module from everything else."""
    sides: dict[str, dict[str, Tensor]] = {"A": {}, "B": {}}
    others = {}
    for key, tensor in tensors.items():
        stem, _, side = key.removesuffix(".weight").rpartition(".lora_")
        if side in sides:
            sides[side][stem.removeprefix(MODEL_PREFIX)] = tensor
        else:
            others[key] = tensor
    single = sorted(sides["A"].keys() ^ sides["B"].keys())
    if single or not sides["A"]:
        what = f"only one of lora_A and lora_B for {single[0]}" if single else "no lora_A and lora_B"
        raise UserError(f"{name} has {what}; need both for every module; it is incomplete or no LoRA")
    strange = [key for key in others if ".lora_" in key and MAGNITUDE not in key]
    if strange:
        raise UserError(
            f"{name} has {strange[0]}, which is no A, B or magnitude of a linear layer; need a LoRA of these"
        )
    return {path: (sides["A"][path], sides["B"][path]) for path in sides["A"]}, others


def _peft_scaling(config: Mapping[str, Any], path: str) -> float:
    rank = pattern_value(config, "r", "rank_pattern", path)
    alpha = pattern_value(config, "lora_alpha", "alpha_pattern", path)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _from_peft(folder: Path) -> Source:
    config = read_json(folder / CONFIG_FILE)
    kind, init = config.get("peft_type"), config.get("init_lora_weights", True)
    if kind != "LORA":
        raise UserError(f"{folder} is of type {kind!r}; need plain LORA; no other adapter is a sharing plan")
    if init not in (*SHAREABLE_INIT, "orthogonal"):
        raise UserError(f"{folder} was initialised with {init!r}, which changed the base too; need a plain LoRA")
    for name, reason in UNSUPPORTED.items():
        if config.get(name):
            raise UserError(f"{folder} has {name}, which does not go with ShareLoRA: {reason}; need a LoRA without it")
    pairs, others = _split(str(folder), load_tensors(folder / WEIGHTS_FILE))
    settings = {field: config[field] for field in _CARRIED if config.get(field) is not None}
    return Source(str(folder), settings, pairs, {path: _peft_scaling(config, path) for path in pairs}, others, True)


def source_of(adapter: Adapter) -> Source:
    """Return an adapter of this project as a plain LoRA, every module with an A and a B of its own.

    Raises:
        UserError: its initialisation changed the base too.
    """
    refuse_rewritten_base(adapter)
    paths, config = adapter.plan.by_path, adapter.config
    return Source(
        name=str(adapter.folder),
        settings={name: config[name] for name in _CARRIED if config.get(name) is not None},
        pairs={path: adapter.pair(path) for path in paths},
        scalings={path: adapter.scaling(path) for path in paths},
        others=adapter.others,
        complete=True,
        parts=config.get("enable_lora") or {},
        elements=adapter.plan.num_parameters,
    )


def _load_state(file: Path) -> dict[str, Tensor]:
    """Read a flat file; a pickle is opened only in the mode that runs no code."""
    if file.suffix == ".safetensors":
        return load_tensors(file)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file} cannot be read as weights alone ({reason}); need a state dict of tensors") from error
    for key in _NESTED:
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{file} is no flat dict of tensors; need what loralib.lora_state_dict returns")
    return state


def _from_loralib(file: Path, alpha: float | None) -> Source:
    alpha = _stated_alpha(file) if alpha is None else alpha
    if alpha is None:
        raise UserError(f"{file} does not say alpha; need the one it was trained with; give --lora_alpha")
    state = {MODEL_PREFIX + name.removeprefix(_WRAPPER): tensor for name, tensor in _load_state(file).items()}
    pairs, others = _split(str(file), state)
    targets = sorted({path.rpartition(".")[2] for path in pairs})
    # In loralib the columns of B are r even where the rows of A are r per enabled slice.
    scalings = {path: alpha / b.shape[1] for path, (_, b) in pairs.items()}
    return Source(str(file), {"target_modules": targets}, pairs, scalings, others, False)


def _stated_alpha(file: Path) -> float | None:
    """The alpha that `sharelora export --loralib` notes in the file's header; loralib's own files have none."""
    if file.suffix != ".safetensors":
        return None
    try:
        with safe_open(file, framework="pt") as handle:
            stated = (handle.metadata() or {}).get("lora_alpha")
    except (OSError, SafetensorError):
        return None  # reading the weights says what is wrong
    return None if stated is None else float(stated)


def read_source(source: str | Path, alpha: float | None = None, own: bool = False) -> Source:
    """Read a plain LoRA: PEFT's folder, or a flat file as loralib makes (safetensors, or pickled tensors alone).

    Args:
        source: folder, hub id or file.
        alpha: needed for loralib's files, which do not say it.
        own: whether an adapter of this project is taken too.

    Raises:
        UserError: none of these, incomplete, or without the alpha that it needs.
    """
    if Path(source).is_file():
        return _from_loralib(Path(source), alpha)
    if alpha is not None:
        raise UserError(f"found --lora_alpha, but {source} is a PEFT folder, which says its alpha; drop the flag")
    place = resolve_adapter(source)
    if own and read_json(place / CONFIG_FILE).get("peft_type") == OWN_TYPE:
        return source_of(read_adapter(place))
    return _from_peft(place)


# A plain LoRA of another tool beside its base model, whose weights are not read.


POOLER = "pooler"  # BERT's lies inside the backbone and trains with the head


@dataclass(frozen=True)
class Opened:
    """A plain LoRA and what surrounds it.

    Attributes:
        source: the LoRA.
        model: its base model on the meta device.
        heads: weights that were trained beside the adapter, under the names that a saved adapter gives them.
        left_out: how many weights of the frozen base the source held too.
        settings: fields of the configuration that stay as they are.
    """

    source: Source
    model: Any
    heads: dict[str, Tensor]
    left_out: int
    settings: dict[str, Any]


def _heads(source: Source, base: Any) -> tuple[dict[str, Tensor], list[str]]:
    """Return trained weights beside the adapter, and the names of the base's frozen ones in a whole state dict."""
    if source.complete:
        return source.others, []
    output = getattr(base, "get_output_embeddings", lambda: None)()
    frozen = {name for name, module in base.named_modules() if module is output}
    backbone = {name for name in base.state_dict() if name.startswith(f"{base.base_model_prefix}.")}
    outside = {name for name in base.state_dict().keys() - backbone if name.rpartition(".")[0] not in frozen}
    pooler = {name for name in backbone if name.startswith(f"{base.base_model_prefix}.{POOLER}.")}
    # A pooler that stands there without the rest of the backbone was trained with the head.
    whole = any(name.removeprefix(MODEL_PREFIX) in backbone - pooler for name in source.others)
    own = outside if whole else outside | pooler
    heads = {name: value for name, value in source.others.items() if name.removeprefix(MODEL_PREFIX) in own}
    return heads, sorted(source.others.keys() - heads.keys())


def _head_settings(source: Source, heads: Mapping[str, Tensor], base: Any) -> dict[str, Any]:
    if source.complete or not heads:
        return {}
    pooler = f"{base.base_model_prefix}.{POOLER}"
    names = [name.removeprefix(MODEL_PREFIX) for name in heads]
    modules = {pooler if name.startswith(f"{pooler}.") else name.split(".")[0] for name in names}
    return {"modules_to_save": sorted(modules), "task_type": "SEQ_CLS"}


def _base_model(source: Source, name: str) -> Any:
    """Build the base on the meta device: as it was published, or as the classifier that the source was trained in."""
    model = meta_model(name)
    modules, weights = {path for path, _ in model.named_modules()}, model.state_dict()
    others = {other.removeprefix(MODEL_PREFIX) for other in source.others}
    if source.pairs.keys() <= modules and others <= weights.keys():
        return model
    config = model_config(name)
    return meta_classifier(config) if is_encoder(config) else model


def _base_name(source: Source, base: str | Path | None) -> str:
    name = base or source.settings.get("base_model_name_or_path")
    if not name:
        raise UserError(f"{source.name} does not name its base model; need it for the order of modules; give --base")
    return str(name)


def open_source(
    source: str | Path, base: str | Path | None = None, alpha: float | None = None, own: bool = False
) -> Opened:
    """Read a plain LoRA and build its base without weights; say how much of the source belongs to the frozen base.

    Args:
        source: a PEFT LoRA folder, or a flat loralib file (safetensors, or pickled tensors).
        base: folder, hub id or known name of the base model; None takes the one that the source names.
        alpha: of a loralib file, which does not say it.
        own: whether an adapter of this project is taken too.

    Raises:
        UserError: a source that cannot be read, or a base that is not named or not there.
    """
    found = read_source(source, alpha, own)
    name = _base_name(found, base)
    model = _base_model(found, name)
    heads, left_out = _heads(found, model)
    if left_out:
        logger.warning("%s also holds %d weights of the frozen base, which are left out", source, len(left_out))
    settings = {"base_model_name_or_path": name, **found.settings, **_head_settings(found, heads, model)}
    return Opened(found, model, heads, len(left_out), settings)
