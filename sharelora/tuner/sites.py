"""Sites of a model: the linear maps that get an adapter, in linear layers, embeddings, convolutions, attention."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from sharelora.plan.site import ALL_LINEAR, Site
from sharelora.support.errors import UserError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Besides linear layers, what PEFT has a LoRA for.
OTHER_SITES = (nn.Embedding, *CONVOLUTIONS, nn.MultiheadAttention)
OUT_PROJ = "out_proj"  # the name of the last linear map of a MultiheadAttention
_OWN = ("forward", "_conv_forward")
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
        paths = [path for path, module in modules.items() if _is_linear(base_of(module)) and module is not head]
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
        names = sorted({path.rpartition(".")[2] for path, module in model.named_modules() if adaptable(module)})
        raise UserError(
            f"modules {', '.join(unmatched) or target_modules} match nothing in the model; it has {', '.join(names)}"
        )


def sites_of(
    modules: Iterable[tuple[str, nn.Module]], enable_lora: Mapping[str, Sequence[bool]] | None = None
) -> list[Site]:
    """Describe the given modules as sites.

    Args:
        modules: paths and modules.
        enable_lora: for fused modules, which of their equal output slices are adapted: `{"c_attn": [True, False,
            True]}` is q and v of GPT-2, as loralib's MergedLinear.

    Raises:
        UserError: a module that no LoRA adapts, a fused module whose outputs do not divide, or a fused module's name
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
        for inner, features in _maps(path, module):
            stack, layer, kind = split_path(inner)
            if several and layer is not None:
                kind = f"{stack}.{kind}"
            site = Site(inner, kind, layer, **features)
            sites.extend(_slices(site, enable_lora or {}, linear=_is_linear(base_of(module))))
    return sites


def base_of(module: nn.Module) -> nn.Module:
    """Return the layer itself; an adapted layer keeps it inside."""
    base: nn.Module = getattr(module, "get_base_layer", lambda: module)()
    return base


def _maps(path: str, module: nn.Module) -> list[tuple[str, dict[str, Any]]]:
    """Return the linear maps in a module that is adapted: path -> what `Site` says of it.

    Raises:
        UserError: a module that no LoRA adapts.
    """
    base: Any = base_of(module)
    if _is_linear(base):
        transposed = isinstance(base, Conv1D)  # GPT-2 keeps a weight of shape (D_in, D_out)
        d_in, d_out = base.weight.shape if transposed else (base.in_features, base.out_features)
        return [(path, {"d_in": d_in, "d_out": d_out})]
    _refuse_what_peft_computes_otherwise(path, base)
    if isinstance(base, nn.Embedding):
        return [(path, {"d_in": base.num_embeddings, "d_out": base.embedding_dim, "embedding": True})]
    if isinstance(base, nn.MultiheadAttention):
        # PEFT adapts the output projection with the other three, which are one matrix.
        size = base.embed_dim
        inputs, output = {"d_in": size, "d_out": 3 * size}, {"d_in": size, "d_out": size}
        return [(path, inputs), (f"{path}.{OUT_PROJ}", output)]
    channels = {"d_in": base.in_channels, "d_out": base.out_channels}
    return [(path, channels | {"kernel": tuple(base.kernel_size), "groups": base.groups})]


def _is_linear(base: nn.Module) -> bool:
    return isinstance(base, nn.Linear | Conv1D)


def adaptable(module: nn.Module) -> bool:
    """Whether a module, adapted or not, is of a kind that can be a site."""
    return _is_linear(base_of(module)) or isinstance(base_of(module), OTHER_SITES)


def _refuse_what_peft_computes_otherwise(path: str, base: Any) -> None:
    """Refuse modules for which PEFT has no LoRA, or one that is not the change of a weight.

    Raises:
        UserError: such a module.
    """
    reason = None
    own = next((sort for sort in OTHER_SITES if isinstance(base, sort)), None)
    if own is None:
        reason = "need a linear layer, an embedding, a convolution or MultiheadAttention"
    elif parametrize.is_parametrized(base):
        reason = "its weight is computed from others (a parametrization) at each use, so nothing can be added to it"
    # Embeddings that only multiply their output say by what, and PEFT's LoRA does the same.
    elif not hasattr(base, "embed_scale") and any(
        getattr(type(base), name) is not getattr(own, name) for name in _OWN if hasattr(own, name)
    ):
        reason = f"it computes in its own way, and PEFT's LoRA knows that of {own.__name__} alone"
    elif issubclass(own, CONVOLUTIONS) and base.kernel_size != (1,) * len(base.kernel_size):
        if any(step != 1 for step in base.dilation):
            reason = f"its dilation is {tuple(base.dilation)}, and PEFT's LoRA of a convolution has none"
        elif base.padding_mode != "zeros":
            reason = f"its padding is {base.padding_mode}, and PEFT's LoRA of a convolution pads with zeros"
    elif own is nn.MultiheadAttention and not base._qkv_same_embed_dim:
        reason = "query, key and value have different widths, and PEFT's LoRA needs one"
    if reason:
        raise UserError(f"{path} is {type(base).__name__}: {reason}; leave it out of target_modules")


def _slices(site: Site, enable_lora: Mapping[str, Sequence[bool]], linear: bool) -> list[Site]:
    """Split a fused module into a site per enabled slice; any other module is one site."""
    enabled = next((flags for name, flags in enable_lora.items() if f".{site.path}".endswith(f".{name}")), None)
    if enabled is None:
        return [site]
    if not linear:
        raise UserError(f"enable_lora names {site.path}, which is no linear layer; only their outputs can be cut")
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
