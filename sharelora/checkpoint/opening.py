"""A plain LoRA of another tool beside its base model, whose weights are not read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sharelora.architectures import is_encoder, meta_classifier, meta_model, model_config
from sharelora.checkpoint.folder import MODEL_PREFIX
from sharelora.checkpoint.sources import Source, read_source
from sharelora.errors import UserError

logger = logging.getLogger(__name__)

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
