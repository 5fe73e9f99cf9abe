"""Sites of a model: the linear maps that get an adapter, in linear layers, embeddings, convolutions, attention."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from sharelora.plan.layers import Layers
from sharelora.plan.site import ALL_LINEAR, Site, ends_with, owner
from sharelora.support.errors import UserError
from sharelora.tuner.layouts import Part, layout_of
from sharelora.tuner.passed_by import left_out_of_all, refuse_passed_by
from sharelora.tuner.patterns import require_quick

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Besides linear layers, what PEFT has a LoRA for.
OTHER_SITES = (nn.Embedding, *CONVOLUTIONS, nn.MultiheadAttention)
OUT_PROJ = "out_proj"  # the name of the last linear map of a MultiheadAttention
_OWN = ("forward", "_conv_forward")

# Imports inside functions load PEFT, which takes longer than the model of a plan: counting needs none of it.


def find_sites(
    model: nn.Module,
    target_modules: str | Sequence[str] = ALL_LINEAR,
    enable_lora: Mapping[str, Sequence[bool]] | None = None,
) -> list[Site]:
    """Find the sites of a model, which may be on the meta device.

    Args:
        model: the base model.
        target_modules: names (suffixes of module paths), a regular expression, or `all-linear` (every linear layer
            but the output head and those on which an adapter has no effect).
        enable_lora: see `sites_of`.

    Raises:
        UserError: names that match nothing, a pattern that takes long, or a module on which an adapter has no effect.
    """
    modules = {path: module for path, module in model.named_modules() if path}
    if target_modules == ALL_LINEAR:
        linear = linear_paths(model)
        left = left_out_of_all(model, linear)
        paths = [path for path in linear if path not in left]
    elif isinstance(target_modules, str):
        require_quick([(target_modules, target_modules)], modules, "target_modules")
        pattern = re.compile(target_modules)
        paths = [path for path in modules if pattern.fullmatch(path)]
    else:
        paths = [path for path in modules if any(ends_with(path, name) for name in target_modules)]
    refuse_unmatched(model, target_modules, paths)
    refuse_passed_by(model, paths)
    return sites_of(model, paths, enable_lora)


def linear_paths(model: nn.Module) -> list[str]:
    """Return the paths of all linear layers but the output head."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    named = ((path, module) for path, module in model.named_modules() if path and module is not head)
    return [path for path, module in named if _is_linear(base_of(module))]


def refuse_unmatched(
    model: nn.Module,
    target_modules: str | Iterable[str],
    paths: Sequence[str],
    filters: Mapping[str, Any] | None = None,
) -> None:
    """Refuse names that no module of the model has; PEFT ignores them as long as another one matches.

    Args:
        model: the base model.
        target_modules: names or a pattern.
        paths: the modules that they select, less those that the filters take out again.
        filters: PEFT's settings that do so, such as `exclude_modules`, by name.

    Raises:
        NoModulesError: such a name, or no module at all. The words of PEFT are in the message, for who looks for them.
    """
    modules = {path: module for path, module in own_modules(model)}
    if isinstance(target_modules, str):
        names, unmatched = [target_modules], []
        matched = any(re.fullmatch(target_modules, path) for path in modules)
    else:
        names = sorted(target_modules)
        unmatched = [name for name in names if not any(ends_with(path, name) for path in modules)]
        matched = len(unmatched) < len(names)
    if paths and not unmatched:
        return
    from sharelora.tuner.refusals import NoModulesError

    if unmatched or not matched:
        kinds = sorted({path.rpartition(".")[2] for path, module in modules.items() if adaptable(module)})
        listed = ", ".join(unmatched or names)
        words = f"Target modules {listed} not found in the base model"
        if not paths:
            words += ", No modules were targeted for adaptation"
        raise NoModulesError(f"modules {listed} match nothing in the model; it has {', '.join(kinds)} (peft: {words})")
    given = [f"{name} {_listed(value)}" for name, value in (filters or {}).items() if value not in (None, [], "")]
    raise NoModulesError(
        f"target_modules {', '.join(names)} match modules of the model, but all of these are taken out again by "
        f"{' and '.join(given) or 'PEFT'}; name others, or take out fewer (peft: All modules were "
        "excluded, No modules were targeted for adaptation. This might be caused by a combination of both)"
    )


def _listed(value: Any) -> str:
    return ", ".join(map(str, sorted(value))) if isinstance(value, list | tuple | set) else str(value)


def own_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of a base model with their paths, not those that adapters have put inside of adapted ones."""
    inside: list[str] = []
    for path, module in model.named_modules():
        if path and not path.startswith(tuple(inside)):
            yield path, module
            if hasattr(module, "get_base_layer"):
                inside.append(f"{path}.")


def layers_of(model: nn.Module, layers_pattern: str | Sequence[str] | None = None) -> Layers:
    """Find the layers of a model.

    Args:
        model: adapted or not.
        layers_pattern: names of the lists of layers, as PEFT has them; None looks for what is repeated.

    Raises:
        UserError: a pattern that no list of modules has.
    """
    paths = [path for path, module in own_modules(model) if adaptable(module)]
    layers = Layers(paths, layers_pattern)
    if layers_pattern and all(layers.position(path)[1] is None for path in paths):
        raise UserError(
            f"layers_pattern {_listed(layers_pattern)} is no list of modules in the model, which has e.g. {paths[0]}; "
            "name the part of a path before the number of a layer"
        )
    return layers


def sites_of(
    model: nn.Module,
    paths: Sequence[str],
    enable_lora: Mapping[str, Sequence[bool]] | None = None,
    layers_pattern: str | Sequence[str] | None = None,
    cut_equally: Container[str] = (),
) -> list[Site]:
    """Describe modules of a model as sites.

    Args:
        model: adapted or not; it may be on the meta device.
        paths: of the modules.
        enable_lora: for fused modules, which of their parts are adapted: `{"c_attn": [True, False, True]}` is q and v
            of GPT-2, as loralib's MergedLinear. The parts are those of `sharelora.tuner.layouts`.
        layers_pattern: see `layers_of`.
        cut_equally: paths of fused modules that are cut into equal parts whatever their layout, as adapters of older
            versions are.

    Raises:
        UserError: a module that no LoRA adapts, a fused module whose parts are not known or are others, or a fused
            module's name that none of the modules has.
    """
    for name in enable_lora or {}:
        if not any(ends_with(path, name) for path in paths):
            raise UserError(f"enable_lora names {name!r}, which is not adapted; name one of target_modules")
    layers = layers_of(model, layers_pattern)
    # With several stacks of layers (an encoder and a decoder, a vision tower) equal kinds are not the same thing.
    several = len({stack for stack, layer, _ in map(layers.position, paths) if layer is not None}) > 1
    sites: list[Site] = []
    for path in paths:
        module = model.get_submodule(path)
        for inner, features in _maps(path, module):
            stack, layer, kind = layers.position(inner)
            if several and layer is not None:
                kind = f"{stack}.{kind}"
            site = Site(inner, kind, layer, **features)
            flags = next((on for name, on in (enable_lora or {}).items() if ends_with(inner, name)), None)
            if flags is None:
                sites.append(site)
            elif not _is_linear(base_of(module)):
                raise UserError(f"enable_lora names {path}, which is no linear layer; only their outputs can be cut")
            else:
                parent = model.get_submodule(path.rpartition(".")[0])
                parts = None if path in cut_equally else layout_of(parent, path, site.d_out)
                sites.extend(_parts(site, flags, parts))
    return sites


def parameter_sites(
    model: nn.Module,
    names: Iterable[str],
    layers_pattern: str | Sequence[str] | None = None,
    alone: bool = False,
) -> list[Site]:
    """Describe parameters, such as the stacked weights of experts, as sites.

    Args:
        model: the base model, perhaps with other adapters on it.
        names: ends of the parameters' paths, as PEFT's `target_parameters`.
        layers_pattern: see `layers_of`.
        alone: whether no modules are named besides.

    Raises:
        UserError: a parameter that is no matrix and no stack of matrices, or none that is so named.
    """
    from peft.tuners.lora import LoraLayer

    from sharelora.tuner.refusals import NoModulesError

    names = list(names)
    # Another adapter may have wrapped the module that holds a parameter; in it are matrices of adapters as well.
    inside = tuple(f"{path}.lora_" for path, module in model.named_modules() if isinstance(module, LoraLayer))
    found: dict[str, dict[str, Any]] = {}
    for module_path, module in model.named_modules():
        for name, parameter in _parameters_of(module):
            path = f"{module_path}.{name}".replace(".base_layer", "")
            if not f"{module_path}.{name}".startswith(inside) and any(ends_with(path, n) for n in names):
                found[path] = _stacked(path, parameter, getattr(module, "is_transposed", False))
    if names and not found:
        words = "No `target_modules` passed but also no `target_parameters` found. Please check the values for "
        words += "these arguments."
        raise NoModulesError(
            f"target_parameters {', '.join(names)} match no parameter of the model; name some that it has"
            + (f" (peft: {words})" if alone else "")
        )
    modules = [path for path, module in own_modules(model) if adaptable(module)]
    positions = {path: Layers([*modules, *found], layers_pattern).position(path) for path in found}
    several = len({stack for stack, layer, _ in positions.values() if layer is not None}) > 1
    return [
        Site(path, f"{stack}.{kind}" if several and layer is not None else kind, layer, **found[path])
        for path, (stack, layer, kind) in positions.items()
    ]


def _parameters_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters of a module by name, also those that are computed from others at each use."""
    yield from module.named_parameters(recurse=False)
    if parametrize.is_parametrized(module):
        computed: Any = module.parametrizations
        yield from ((name, getattr(module, name)) for name in computed)


def _stacked(path: str, parameter: Tensor, transposed: bool) -> dict[str, int]:
    """Return what `Site` says of a matrix, (D_out, D_in), or a stack, (experts, D_out, D_in), or transposed."""
    if parameter.ndim == 2:
        return {"d_in": parameter.shape[1], "d_out": parameter.shape[0]}
    if parameter.ndim != 3:
        raise UserError(f"{path} has {parameter.ndim} dimensions; need 2 or 3; leave it out of target_parameters")
    experts, rows, columns = parameter.shape
    d_in, d_out = (rows, columns) if transposed else (columns, rows)
    return {"d_in": d_in, "d_out": d_out, "experts": experts}


def with_blocks(site: Site, settings: Any) -> Site:
    """Return a site whose A or B is block-diagonal where PEFT makes it so.

    Args:
        site: of a linear layer.
        settings: PEFT's `BdLoraConfig`, or its fields as read from a file.
    """
    fields = settings if isinstance(settings, Mapping) else vars(settings)
    named = [fields.get(f"target_modules_bd_{side}") or () for side in "ab"]
    counts = [fields["nblocks"] if any(name in site.path for name in names) else 1 for names in named]
    # PEFT refuses a module that is named for both.
    return replace(site, blocks=(counts[0], counts[1]))


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


def adaptable_paths(model: nn.Module) -> list[str]:
    """Return the paths of all modules that can be sites; an attention has its own output projection inside."""
    kinds = {path: base_of(module) for path, module in own_modules(model) if adaptable(module)}
    whole = {path for path, base in kinds.items() if isinstance(base, nn.MultiheadAttention)}
    return [path for path in kinds if owner(path, whole) == path]


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


def _parts(site: Site, enabled: Sequence[bool], parts: Sequence[Part] | None) -> list[Site]:
    """Return a site per enabled part of a fused module; None are equal parts, as many as there are flags."""
    count = len(enabled)
    if parts is None and site.d_out % count == 0:
        size = site.d_out // count
        parts = [Part(str(i), (i * size, size, site.d_out)) for i in range(count)]
    if parts is None or count != len(parts) or not any(enabled):
        have = f"{len(parts)} parts ({', '.join(part.name for part in parts)})" if parts else f"{site.d_out} outputs"
        raise UserError(
            f"enable_lora {list(enabled)} does not fit {site.path}, which has {have}; "
            "give true or false for each part, one of them true"
        )
    sites = []
    for index, part in enumerate(parts):
        _, run, step = part.rows
        d_out = site.d_out // step * run
        equal = part.rows == (index * d_out, d_out, count * d_out)
        rows = None if equal else part.rows
        sites.append(Site(site.path, f"{site.kind}[{index}]", site.layer, site.d_in, d_out, index, count, rows=rows))
    return [own for own, on in zip(sites, enabled, strict=True) if on]


def layer_at(model: nn.Module, path: str) -> Any:
    """Return the adapted layer of a site.

    Args:
        model: an adapted model.
        path: of the site; that of an attention's own output projection is inside of the adapted attention, and a
            parameter has a layer around the module that holds it, one in the other where there are several.
    """
    parent, _, name = path.rpartition(".")
    outer: Any = model.get_submodule(parent)
    while hasattr(outer, "parameter_name"):
        if outer.parameter_name == name:
            return outer
        outer = outer.base_layer
    if name == OUT_PROJ and hasattr(outer, "get_base_layer"):
        outer = outer.get_base_layer()
    return getattr(outer, name)
