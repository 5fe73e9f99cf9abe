"""Plain LoRAs of other tools: PEFT's folders and loralib's flat files, read as data, and their base models."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharelora.convert.adapter_file import (
    BASE_LAYER,
    MAGNITUDE,
    MODEL_PREFIX,
    Adapter,
    pattern_value,
    read_adapter,
    require_numbers,
    require_rank,
    with_kernel,
)
from sharelora.convert.base_folder import POOLER
from sharelora.convert.changes import ROWS
from sharelora.convert.exporting import refuse_more_than_matrices
from sharelora.models.adapter import resolve_adapter
from sharelora.models.known import is_encoder, meta_classifier, meta_model, model_config
from sharelora.models.tensors import load_tensors, open_tensors
from sharelora.plan.site import owner
from sharelora.support.errors import UserError, out_of_memory
from sharelora.support.reading import open_file
from sharelora.tuner.config import BEYOND_EXPORT, SHAREABLE_INIT, UNSUPPORTED
from sharelora.tuner.files import CONFIG_FILE, WEIGHTS_FILE, check_weights, read_config
from sharelora.tuner.patterns import patterns_of, require_quick
from sharelora.tuner.register import NAME

logger = logging.getLogger(__name__)

# Fused modules and, for each, which of its equal output slices are adapted.
EnableLora = Mapping[str, Sequence[bool]]
# Fields of a PEFT configuration that mean the same here. Ranks and alphas are read from the matrices and scalings.
_CARRIED = (
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "use_dora",
    "bias",
    "modules_to_save",
    "trainable_token_indices",
    "task_type",
    "base_model_name_or_path",
    "revision",
    "trained_on",
)
# What parallel wrappers put in front of the names, and training scripts around the weights.
_WRAPPER, _NESTED = "module.", ("model_state_dict", "state_dict", "model")
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class PlainLora:
    """A LoRA without sharing: one A and one B per module.

    Attributes:
        name: its folder or file, for messages.
        settings: fields of the configuration to write.
        pairs: module path -> A, (r, D_in), and B, (D_out, r), in the shapes of `Site.shapes`.
        scalings: module path -> the factor of B A.
        others: further weights, under the names that a saved adapter gives them.
        complete: whether all of these were trained; a full state dict holds the frozen base too.
        enable_lora: fused modules and their enabled slices, where the source says them.
        elements: of all its matrices, where some are shared.
    """

    name: str
    settings: dict[str, Any]
    pairs: dict[str, tuple[Tensor, Tensor]]
    scalings: dict[str, float]
    others: dict[str, Tensor]
    complete: bool
    enable_lora: dict[str, list[bool]] = field(default_factory=dict)
    elements: int | None = None


def read_lora(source: str | Path, alpha: float | None = None, accept_shared: bool = False) -> PlainLora:
    """Read a plain LoRA: a PEFT folder, or a flat file as loralib writes it (safetensors, or pickled tensors alone).

    Args:
        source: folder, hub id or file.
        alpha: needed for loralib's files, which do not say it.
        accept_shared: whether an adapter of this project may be the source, too.

    Raises:
        UserError: it is none of these, lacks alpha, or holds something other than a LoRA of finite numbers.
    """
    lora = _read_any(source, alpha, accept_shared)
    pairs = {
        f"lora_{side} of {path}": matrix
        for path in lora.pairs
        for side, matrix in zip("AB", lora.pairs[path], strict=True)
    }
    require_numbers({**pairs, **lora.others}, lora.scalings, lora.name)
    return lora


def _read_any(source: str | Path, alpha: float | None, accept_shared: bool) -> PlainLora:
    if Path(source).is_file():
        return _from_loralib(Path(source), alpha)
    if alpha is not None:
        raise UserError(f"found --lora_alpha, but {source} is a PEFT folder, which says its alpha; drop the flag")
    folder = resolve_adapter(source)
    config = read_config(folder)
    if accept_shared and config.get("peft_type") == NAME:
        return _from_shared(read_adapter(folder))
    return _from_peft(folder, config)


def _from_peft(folder: Path, config: Mapping[str, Any]) -> PlainLora:
    peft_type, init = config.get("peft_type"), config.get("init_lora_weights", True)
    if peft_type != "LORA":
        raise UserError(f"{folder} is of type {peft_type!r}; need plain LORA; no other adapter is a sharing plan")
    if init not in (*SHAREABLE_INIT, "orthogonal"):
        raise UserError(f"{folder} was initialised with {init!r}, which changed the base too; need a plain LoRA")
    for name, reason in (UNSUPPORTED | BEYOND_EXPORT).items():
        if config.get(name):
            raise UserError(f"{folder} has {name}, which is more than A and B: {reason}; need a LoRA without it")
    check_weights(folder, config)
    pairs, others = _pairs_and_others(str(folder), load_tensors(folder / WEIGHTS_FILE))
    require_quick(patterns_of(config), pairs, folder / CONFIG_FILE)
    scalings = {}
    for path in pairs:
        rank, alpha = (
            pattern_value(config, name, pattern, owner(path, pairs))
            for name, pattern in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern"))
        )
        require_rank(folder, config, owner(path, pairs), pairs[path][0].shape[0])
        scalings[path] = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return PlainLora(str(folder), _carried(config), pairs, scalings, others, complete=True)


def _from_shared(adapter: Adapter) -> PlainLora:
    """Expand an adapter of this project: every module gets its own A and B."""
    refuse_more_than_matrices(adapter)
    paths = adapter.plan.by_path
    return PlainLora(
        name=str(adapter.folder),
        settings=_carried(adapter.config),
        pairs={path: with_kernel(entries[0].site, *adapter.pair(path)) for path, entries in paths.items()},
        scalings={path: adapter.scaling(path) for path in paths},
        others=adapter.others,
        complete=True,
        enable_lora=adapter.config.get("enable_lora") or {},
        elements=adapter.plan.num_parameters,
    )


def _carried(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in _CARRIED if config.get(name) is not None}


def _from_loralib(file: Path, alpha: float | None) -> PlainLora:
    alpha = _stated_alpha(file) if alpha is None else alpha
    if alpha is None:
        raise UserError(f"{file} does not say alpha; need the one it was trained with; give --lora_alpha")
    state = {MODEL_PREFIX + name.removeprefix(_WRAPPER): tensor for name, tensor in _load_state(file).items()}
    pairs, others = _pairs_and_others(str(file), state)
    targets = sorted({path.rpartition(".")[2] for path in pairs})
    # In loralib the columns of B are r even where the rows of A are r per enabled slice.
    scalings = {path: alpha / b.shape[1] for path, (_, b) in pairs.items()}
    return PlainLora(str(file), {"target_modules": targets}, pairs, scalings, others, complete=False)


def _stated_alpha(file: Path) -> float | None:
    """Return the alpha that `sharelora export --loralib` notes in the header; loralib's own files have none."""
    if file.suffix != ".safetensors":
        return None
    with open_tensors(file) as handle:
        text = (handle.metadata() or {}).get("lora_alpha")
    if text is None:
        return None
    alpha = _number(text)
    if not math.isfinite(alpha):
        raise UserError(f"{file} says lora_alpha {text[:60]!r}; need a number; give --lora_alpha")
    return alpha


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _load_state(file: Path) -> dict[str, Tensor]:
    """Read a flat file; a pickle is opened only in the mode that runs no code."""
    if file.suffix == ".safetensors":
        return load_tensors(file)
    open_file(file).close()  # it is one
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        if out_of_memory(error):
            raise
        # Not torch's own message, which explains how to run the code in the file.
        raise UserError(
            f"{file} cannot be read as weights alone ({type(error).__name__}); need a state dict of tensors"
        ) from error
    for key in _NESTED:
        state = state.get(key, state) if isinstance(state, dict) else state
    named = isinstance(state, dict) and all(isinstance(name, str) for name in state)
    if not named or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{file} is not a flat dict of tensors; need what loralib.lora_state_dict returns")
    return state


def _pairs_and_others(
    name: str, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """Separate A and B per module from everything else."""
    sides: dict[str, dict[str, Tensor]] = {"A": {}, "B": {}}
    others = {}
    for key, tensor in tensors.items():
        stem, _, side = key.removesuffix(".weight").rpartition(".lora_")
        side = side.removeprefix("embedding_")
        if side in sides:
            sides[side][stem.removeprefix(MODEL_PREFIX).replace(BASE_LAYER, ".")] = tensor
        else:
            others[key] = tensor
    odd = next((key for key in tensors if ".lora_" in key and tensors[key].dtype not in _DTYPES), None)
    if odd is not None:
        raise UserError(
            f"{name} has {odd} as {tensors[odd].dtype}; need a float of 16, 32 or 64 bits; save it again so"
        )
    single = sorted(sides["A"].keys() ^ sides["B"].keys())
    if single or not sides["A"]:
        what = f"only one of lora_A and lora_B for {single[0]}" if single else "no lora_A and lora_B"
        raise UserError(f"{name} has {what}; need both for every module; it is incomplete or not a LoRA")
    shapes = {path: [tuple(side[path].shape) for side in sides.values()] for path in sides["A"]}
    flat = next((path for path, both in shapes.items() if any(len(shape) < 2 or 0 in shape for shape in both)), None)
    if flat is not None:
        raise UserError(f"{name} has an A or a B of {flat} that is no matrix; need two dimensions; copy it again")
    strange = [key for key in others if ".lora_" in key and MAGNITUDE not in key]
    if strange:
        raise UserError(f"{name} has {strange[0]}; need A, B and magnitudes alone; use such a LoRA")
    return {path: (sides["A"][path], sides["B"][path]) for path in sides["A"]}, others


@dataclass(frozen=True)
class LoraOnBase:
    """A plain LoRA with its base model.

    Attributes:
        lora: the LoRA.
        base: its base model on the meta device; its weights are not read.
        heads: other trained weights, under the names that a saved adapter gives them.
        left_out: number of weights of the frozen base that the source held too.
        settings: fields of the configuration to write, without ranks and sharing.
    """

    lora: PlainLora
    base: Any
    heads: dict[str, Tensor]
    left_out: int
    settings: dict[str, Any]


def open_lora(
    source: str | Path,
    base: str | Path | None = None,
    alpha: float | None = None,
    accept_shared: bool = False,
) -> LoraOnBase:
    """Read a plain LoRA and build its base without weights; warn of weights of the frozen base in the source.

    Args:
        source: a PEFT LoRA folder, or a flat loralib file (safetensors, or pickled tensors).
        base: folder, hub id or known name of the base model; None takes the one that the source names.
        alpha: of a loralib file, which does not say it.
        accept_shared: whether an adapter of this project may be the source, too.

    Raises:
        UserError: a source that cannot be read, or a base that is not named or not there.
    """
    lora = read_lora(source, alpha, accept_shared)
    name = base or lora.settings.get("base_model_name_or_path")
    if not name:
        raise UserError(f"{lora.name} does not name its base model; need it for the order of modules; give --base")
    model = _build_base(lora, str(name))
    heads, head_settings = (lora.others, {}) if lora.complete else _heads(lora, model)
    left_out = len(lora.others) - len(heads)
    if left_out:
        logger.warning("%s also holds %d weights of the frozen base, which are left out", source, left_out)
    settings = {"base_model_name_or_path": str(name), **lora.settings, **head_settings}
    return LoraOnBase(lora, model, heads, left_out, settings)


def _build_base(lora: PlainLora, name: str) -> Any:
    """Build the base on the meta device: as it was published, or as the classifier that the LoRA was trained in."""
    model = meta_model(name)
    modules, weights = {path for path, _ in model.named_modules()}, model.state_dict()
    names = [other for other in lora.others if not other.endswith(ROWS)]
    others = {other.removeprefix(MODEL_PREFIX).replace(BASE_LAYER, ".") for other in names}
    if lora.pairs.keys() <= modules and others <= weights.keys():
        return model
    config = model_config(name)
    return meta_classifier(config) if is_encoder(config) else model


def _heads(lora: PlainLora, base: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the trained ones among the other weights of a state dict, and the settings that save them again."""
    output = getattr(base, "get_output_embeddings", lambda: None)()
    frozen = {name for name, module in base.named_modules() if module is output}
    backbone = {name for name in base.state_dict() if name.startswith(f"{base.base_model_prefix}.")}
    trained = {name for name in base.state_dict().keys() - backbone if name.rpartition(".")[0] not in frozen}
    pooler = f"{base.base_model_prefix}.{POOLER}"
    pooler_weights = {name for name in backbone if name.startswith(f"{pooler}.")}
    # Without the rest of the backbone, a pooler in the file was trained with the head.
    if not any(name.removeprefix(MODEL_PREFIX) in backbone - pooler_weights for name in lora.others):
        trained |= pooler_weights
    heads = {name: value for name, value in lora.others.items() if name.removeprefix(MODEL_PREFIX) in trained}
    names = [name.removeprefix(MODEL_PREFIX) for name in heads]
    modules = {pooler if name.startswith(f"{pooler}.") else name.split(".")[0] for name in names}
    return heads, {"modules_to_save": sorted(modules), "task_type": "SEQ_CLS"} if heads else {}
