"""Experts that a model keeps as stacks of matrices, named in target_modules as the layers that they once were.

In older releases of transformers an expert of Qwen or Mixtral had a linear layer for each of its matrices; now all
experts of a layer are parameters, of which one may hold two matrices (`gate_up_proj`). PEFT goes on to adapt them under
the names of then, `gate_proj` and `up_proj`, in LoRA alone. Here they are adapted as well where they are named;
`all-linear` leaves them out, since parameters go without dropout, and their adapters cannot be merged or exported.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from peft import PeftWarning
from peft.utils.transformers_weight_conversion import _MODEL_TO_CONVERSION_PATTERN, _MOE_TARGET_MODULE_MAPPING
from torch import nn

from sharelora.plan.site import ALL_LINEAR, ends_with, parent
from sharelora.support.errors import UserError
from sharelora.tuner.config import SHAREABLE_INIT
from sharelora.tuner.sites import adaptable

# What PEFT's layer around a parameter does not do.
LAYERS_ALONE = (
    *("lora_dropout", "use_dora", "lora_bias", "use_bdlora", "alora_invocation_tokens"),
    *("velora_config", "monteclora_config", "kasa_config"),
)


@dataclass(frozen=True)
class Stack:
    """A parameter that holds what once were layers.

    Attributes:
        path: of the parameter.
        name: by which target_parameters means all that are alike.
        layers: paths of the layers, without the number of an expert.
    """

    path: str
    name: str
    layers: tuple[str, ...]


def stacks_of(model: nn.Module) -> Iterator[Stack]:
    """Yield the parameters of a model that once were layers: those of experts, and of what routes to them."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    old_names = _MOE_TARGET_MODULE_MAPPING.get(_MODEL_TO_CONVERSION_PATTERN.get(str(model_type), ""), {})
    for path in (path.replace(".base_layer", "") for path, _ in model.named_parameters()):  # adapters wrap modules
        for name in dict.fromkeys(old_names.values()):
            if ends_with(path, name) and not adaptable(model.get_submodule(parent(path))):
                stem = path.removesuffix(name)
                yield Stack(path, name, tuple(stem + old for old, new in old_names.items() if new == name))


def named_experts(tuner: Any, model: nn.Module, config: Any) -> dict[str, Any]:
    """Return what changes in a configuration whose target_modules names experts.

    The names of layers stay, so that those that a model has besides (dense ones, shared experts) are adapted, too.

    Args:
        tuner: a ShareLoraModel.
        model: the base model.
        config: of the adapter.

    Returns:
        Field -> value; the same values that PEFT gives them for LoRA where a model has no other layers of these names.

    Raises:
        UserError: one half of a parameter is named, or what PEFT cannot do with a parameter is asked for.
    """
    stacks = list(stacks_of(model))
    given = config.target_modules
    if config.saved_plan is not None or given is None or not stacks:
        return {}  # what a saved adapter adapts is long decided
    if _all_linear(given):
        _warn_of(stacks)
        return {}
    paths = tuner._target_paths(model, copy.copy(config))
    names = _named(tuner, config, stacks, {path.rpartition(".")[2] for path in paths})
    rest = [path for path in paths if path not in {parent(stack.path) for stack in names}]
    changed: dict[str, Any] = {"target_modules": _layers(tuner, model, config, rest, names)}
    if not names:
        return changed if isinstance(given, str) and rest else {}
    for field in LAYERS_ALONE:
        if getattr(config, field, None):
            _refuse(field, names[0])
    if config.init_lora_weights not in SHAREABLE_INIT:
        _refuse(f"init_lora_weights={config.init_lora_weights!r}", names[0])
    whole = {stack.name for stack in stacks} - {stack.name for stack in stacks if stack not in names}
    parameters = {stack.name if stack.name in whole else stack.path for stack in names}
    changed["target_parameters"] = parameters | set(config.target_parameters or ())
    if config.share_plan is None:  # whose rows have the ranks
        for field, one in (("rank_pattern", config.r), ("alpha_pattern", config.lora_alpha)):
            wider = {rf".*\.{re.escape(s.name)}": one * len(s.layers) for s in names if len(s.layers) > 1}
            changed[field] = {**getattr(config, field), **wider}
    return changed


def _named(tuner: Any, config: Any, stacks: list[Stack], others: set[str]) -> list[Stack]:
    """Return the stacks that target_modules names.

    Args:
        tuner: a ShareLoraModel.
        config: of the adapter.
        stacks: of the model.
        others: names of layers that target_modules selects.
    """
    found, halves = [], set()
    for stack in stacks:
        on = [path for path in stack.layers if tuner._check_target_module_exists(config, path)]
        if len(on) == len(stack.layers):
            found.append(stack)
        elif on:
            ends = [sorted({path.rpartition(".")[2] for path in paths}) for paths in (on, set(stack.layers) - set(on))]
            have, lack = (", ".join(names) for names in ends)
            if not others.intersection(ends[0]):
                raise UserError(
                    f"target_modules names {have} of the experts and not {lack}, and {stack.path} is both; name both "
                    f"(peft: Cannot convert PEFT target(s) {have} without also targeting {lack} because they are fused "
                    f"into {stack.name}.)"
                )
            halves.add(f"{have} without {lack}")
    if halves:
        warnings.warn(
            f"target_modules names {' and '.join(sorted(halves))}, which experts of this model have in one parameter: "
            "they stay as they are, and layers of these names are adapted; name both to adapt experts, too",
            stacklevel=2,
        )
    return found


def _layers(tuner: Any, model: nn.Module, config: Any, paths: list[str], stacks: list[Stack]) -> set[str]:
    """Return the names that select the layers alone: as they are given, else their last parts, else their paths."""
    if not isinstance(config.target_modules, str):
        experts = [path for stack in stacks for path in stack.layers]
        return {name for name in config.target_modules if _means(name, paths) or not _means(name, experts)}
    wanted = copy.copy(config)
    wanted.target_modules = {path.rpartition(".")[2] for path in paths}
    return wanted.target_modules if tuner._target_paths(model, copy.copy(wanted)) == paths else set(paths)


def refuse_experts(model: nn.Module, target_modules: str | Iterable[str]) -> None:
    """Refuse names that mean experts, for commands that count and train layers alone; `all-linear` leaves them out.

    Args:
        model: the base model, which may be on the meta device.
        target_modules: as PEFT takes them.

    Raises:
        UserError: such a name.
    """
    stacks = list(stacks_of(model))
    if _all_linear(target_modules):
        if stacks:
            _warn_of(stacks)
        return
    pattern = target_modules if isinstance(target_modules, str) else None
    for stack in stacks:
        for path in stack.layers:
            if re.fullmatch(pattern, path) if pattern else any(_means(name, [path]) for name in target_modules):
                raise UserError(
                    f"found {path.rpartition('.')[2]}, which means experts of this model: {stack.path} is a parameter; "
                    "need layers; name others, whole paths, or re:PATTERN that no expert has, or all"
                )


def _all_linear(target_modules: Any) -> bool:
    return isinstance(target_modules, str) and target_modules.lower() == ALL_LINEAR


def _warn_of(stacks: list[Stack]) -> None:
    names = ", ".join(dict.fromkeys(stack.name for stack in stacks))
    warnings.warn(
        f"all linear layers are adapted, and {names} of this model are parameters, which stay as they are; "
        "name what they once were in target_modules of ShareLoraConfig to adapt them",
        PeftWarning,
        stacklevel=3,
    )


def _means(name: str, paths: list[str]) -> bool:
    return any(ends_with(path, name) for path in paths)


def _refuse(what: str, stack: Stack) -> None:
    raise UserError(
        f"{what} does not go with {stack.path}, which target_modules names and which is a parameter, not a layer; "
        "leave it out, or name whole paths of layers, or a pattern of them, with target_modules"
    )
