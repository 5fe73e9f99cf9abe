"""A saved adapter under the names that its modules have in a base of today."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from sharelora.convert.adapter_file import MODEL_PREFIX, Adapter
from sharelora.models.known import meta_models
from sharelora.plan.renamed import on_model
from sharelora.plan.site import ends_with
from sharelora.support.errors import UserError
from sharelora.tuner.loading import present_settings, present_state
from sharelora.tuner.sites import adaptable_paths, sites_of


def on_base(adapter: Adapter, base: nn.Module, paths: Iterable[str]) -> Adapter:
    """Return an adapter under the names of a base, as loading it there would rename it.

    Args:
        adapter: as saved.
        base: its base, which may be on the meta device.
        paths: of the modules that the base has, in every spelling that means one of them.

    Returns:
        The same adapter where the base has all of its modules.

    Raises:
        UserError: the base lacks a module of the plan under any name, or two could be meant.
    """
    if adapter.plan.by_path.keys() <= set(paths):
        return adapter
    config = adapter.config
    sites = sites_of(base, adaptable_paths(base), config.get("enable_lora"), config.get("layers_pattern"))
    plan, now_at = on_model(adapter.plan, sites)
    whole = [*(config.get("modules_to_save") or ()), *_trained_tokens(config.get("trainable_token_indices"))]
    heads = [path for path, _ in base.named_modules() if any(ends_with(path, name) for name in whole)]
    others = present_state(adapter.others, MODEL_PREFIX, now_at, heads)
    return replace(
        adapter, config={**config, **present_settings(config, plan, now_at)}, plan=plan, others=others
    )  # fmt: skip


def on_own_base(adapter: Adapter, name: str | Path | None) -> Adapter:
    """Return an adapter under the names of its own base, of which only the configuration is read.

    Args:
        adapter: as saved.
        name: folder, hub id or known name of the base; None takes the one that the adapter names.

    Returns:
        The same adapter where a class of the base has all of its modules, or the base is not known or another.

    Raises:
        UserError: a base that is named and not there.
    """
    source = name or adapter.config.get("base_model_name_or_path")
    others: list[tuple[nn.Module, set[str]]] = []
    try:
        for model in meta_models(str(source), adapter.config.get("task_type")) if source else ():
            own = {path for path, _ in model.named_modules()}
            if adapter.plan.by_path.keys() <= own:
                return adapter  # before the model is built in further classes
            others.append((model, own))
    except UserError:
        if name:
            raise
    for model, own in others:
        with suppress(UserError):  # reading the export back says what is wrong with the base
            return on_base(adapter, model, own)
    return adapter


def _trained_tokens(indices: Any) -> Iterable[str]:
    """Return the names of the embeddings of which some tokens are trained, where the configuration names them."""
    return indices if isinstance(indices, dict) else ()
