"""Sites of a model: the linear maps that get an adapter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from sharelora.plan.site import ALL_LINEAR, Site
from sharelora.support.errors import UserError

_INDEXED = re.compile(r"(?P<stack>.*?)\.(?P<layer>\d+)\.(?P<kind>.+)")


def split_path(path: str) -> tuple[str, int | None, str]:
    """Split a module path into the stack of layers, the layer's index and the kind of module."""
    match = _INDEXED.fullmatch(path)
    return (match["stack"], int(match["layer"]), match["kind"]) if match else ("", None, path)


def find_sites(
    model: nn.Module,
    target_modules: str | Sequence[str] = ALL_LINEAR,
    enable_lora: Mapping[str, Sequence[bool]] | None = None,
) -> list[Site]:
    """Find the sites of a model, which may be on the meta device.

    Args:
        model: the base model.
        target_modules: names (suffixes of module paths), a regular expression, or `all-linear` (every linear layer
            but the output head).
        enable_lora: see `sites_of`.

    Raises:
        UserError: names that match nothing.
    """
    modules = {path: module for path, module in model.named_modules() if path}
    if target_modules == ALL_LINEAR:
        head = getattr(model, "get_output_embeddings", lambda: None)()
        paths = [path for path, module in modules.items() if _features(module) and module is not head]
    elif isinstance(target_modules, str):
        pattern = re.compile(target_modules)
        paths = [path for path in modules if pattern.fullmatch(path)]
    else:
        paths = [path for path in modules if any(f".{path}".endswith(f".{name}") for name in target_modules)]
    refuse_unmatched(model, target_modules, paths)
    return sites_of([(path, modules[path]) for path in paths], enable_lora)


def refuse_unmatched(model: nn.Module, target_modules: str | Iterable[str], paths: Sequence[str]) -> None:
    """Refuse names that no module of the model has; PEFT ignores them as long as another one matches.

    Args:
        model: the base model.
        target_modules: names or a pattern.
        paths: the modules that they select. These may lack some that a name matches, such as those that PEFT's
            `exclude_modules` or `layers_to_transform` take out again.

    Raises:
        UserError: such a name, or no module at all.
    """
    names = () if isinstance(target_modules, str) else target_modules
    every = [f".{path}" for path, _ in model.named_modules()]
    unmatched = sorted(name for name in names if not any(path.endswith(f".{name}") for path in every))
    if unmatched or not paths:
        linear = sorted({path.rpartition(".")[2] for path, module in model.named_modules() if _features(module)})
        raise UserError(
            f"modules {', '.join(unmatched) or target_modules} match nothing in the model; it has {', '.join(linear)}"
        )


def sites_of(
    modules: Iterable[tuple[str, nn.Module]], enable_lora: Mapping[str, Sequence[bool]] | None = None
) -> list[Site]:
    """Describe the given linear modules as sites.

    Args:
        modules: paths and modules.
        enable_lora: for fused modules, which of their equal output slices are adapted: `{"c_attn": [True, False,
            True]}` is q and v of GPT-2, as loralib's MergedLinear.

    Raises:
        UserError: a module that is not linear, a fused module whose outputs do not divide, or a fused module's name
            that none of the modules has.
    """
    modules = list(modules)
    for name in enable_lora or {}:
        if not any(f".{path}".endswith(f".{name}") for path, _ in modules):
            raise UserError(f"enable_lora names {name!r}, which is not adapted; name one of target_modules")
    # With several stacks of layers (an encoder and a decoder, a vision tower) equal kinds are not the same thing.
    several = len({stack for stack, layer, _ in (split_path(path) for path, _ in modules) if layer is not None}) > 1
    sites: list[Site] = []
    for path, module in modules:
        stack, layer, kind = split_path(path)
        features = _features(module)
        if features is None:
            raise UserError(f"{path} is {type(module).__name__}, not a linear layer; leave it out of target_modules")
        if several and layer is not None:
            kind = f"{stack}.{kind}"
        sites.extend(_slices(Site(path, kind, layer, *features), enable_lora or {}))
    return sites


def _features(module: nn.Module) -> tuple[int, int] | None:
    """Return D_in and D_out of a linear layer, adapted or not; None for any other module."""
    # An adapted layer keeps the linear one inside.
    base: Any = getattr(module, "get_base_layer", lambda: module)()
    if isinstance(base, nn.Linear):
        return base.in_features, base.out_features
    # GPT-2 keeps a transposed weight, of shape (D_in, D_out).
    if type(base).__name__ == "Conv1D":
        return base.weight.shape[0], base.weight.shape[1]
    return None


def _slices(site: Site, enable_lora: Mapping[str, Sequence[bool]]) -> list[Site]:
    """Split a fused module into a site per enabled slice; any other module is one site."""
    enabled = next((flags for name, flags in enable_lora.items() if f".{site.path}".endswith(f".{name}")), None)
    if enabled is None:
        return [site]
    parts = len(enabled)
    if not any(enabled) or site.d_out % parts:
        raise UserError(
            f"enable_lora {list(enabled)} does not fit {site.path} with {site.d_out} outputs; "
            "give equal parts, one of them true"
        )
    d_out = site.d_out // parts
    return [
        Site(site.path, f"{site.kind}[{part}]", site.layer, site.d_in, d_out, part, parts)
        for part, on in enumerate(enabled)
        if on
    ]
