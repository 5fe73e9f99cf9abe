"""Find the sites of a model: the linear maps that get an adapter."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from sharelora.plan.site import ALL_LINEAR, Site
from sharelora.support.errors import UserError

_INDEX = re.compile(r"(?P<stack>.*?)\.(?P<layer>\d+)\.(?P<kind>.+)")


def _features(module: nn.Module) -> tuple[int, int] | None:
    # An adapted layer keeps the linear one inside.
    base: Any = getattr(module, "get_base_layer", lambda: module)()
    if isinstance(base, nn.Linear):
        return base.in_features, base.out_features
    # GPT-2 keeps a transposed weight, of shape (D_in, D_out).
    if type(base).__name__ == "Conv1D":
        return base.weight.shape[0], base.weight.shape[1]
    return None


def locate(path: str) -> tuple[str, int | None, str]:
    """Split a module path into the stack of layers, the layer's index and the kind of module."""
    found = _INDEX.fullmatch(path)
    return (found["stack"], int(found["layer"]), found["kind"]) if found else ("", None, path)


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
    several = len({stack for stack, layer, _ in (locate(path) for path, _ in modules) if layer is not None}) > 1
    sites: list[Site] = []
    for path, module in modules:
        stack, layer, kind = locate(path)
        features = _features(module)
        if features is None:
            raise UserError(f"{path} is {type(module).__name__}, not a linear layer; leave it out of target_modules")
        if several and layer is not None:
            kind = f"{stack}.{kind}"
        sites.extend(_split(Site(path, kind, layer, *features), enable_lora or {}))
    return sites


def _split(site: Site, enable_lora: Mapping[str, Sequence[bool]]) -> list[Site]:
    """Turn a fused module into a site per enabled slice; leave any other module as it is."""
    enabled = next((flags for name, flags in enable_lora.items() if f".{site.path}".endswith(f".{name}")), None)
    if enabled is None:
        return [site]
    parts = len(enabled)
    if not any(enabled) or site.d_out % parts:
        raise UserError(
            f"enable_lora {list(enabled)} does not fit {site.path} with {site.d_out} outputs; "
            "give equal parts, one of them true"
        )
    size = site.d_out // parts
    return [
        Site(site.path, f"{site.kind}[{part}]", site.layer, site.d_in, size, part, parts)
        for part, on in enumerate(enabled)
        if on
    ]


def _selector(model: nn.Module, target_modules: str | Sequence[str]) -> Callable[[str], bool]:
    if target_modules == ALL_LINEAR:
        head = getattr(model, "get_output_embeddings", lambda: None)()
        linear = {path for path, module in model.named_modules() if _features(module) and module is not head}
        return linear.__contains__
    if isinstance(target_modules, str):
        pattern = re.compile(target_modules)
        return lambda path: pattern.fullmatch(path) is not None
    return lambda path: any(f".{path}".endswith(f".{name}") for name in target_modules)


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
    selected = _selector(model, target_modules)
    modules = [(path, module) for path, module in model.named_modules() if path and selected(path)]
    names = [] if isinstance(target_modules, str) else target_modules
    idle = [name for name in names if not any(f".{path}".endswith(f".{name}") for path, _ in modules)]
    if idle or not modules:
        have = sorted({locate(path)[2] for path, module in model.named_modules() if _features(module)})
        raise UserError(
            f"modules {', '.join(idle) or target_modules} match nothing in the model; it has {', '.join(have[:12])}"
        )
    return sites_of(modules, enable_lora)
