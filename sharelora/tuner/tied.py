"""Tied weights: one tensor under several names, usually of the input and the output embeddings.

An adapter that changes one of the names unties them, in the weights and in the configuration, or whoever reads the
model next would tie them again.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from peft.tuners.lora import LoraLayer
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

FLAG = "tie_word_embeddings"
# In T5 and its descendants the flag also says whether the decoder's output is scaled, so it stays as it is. They are
# untied all the same: transformers ties no two weights of a file that differ.
_FLAG_IS_A_SCALE = ("t5", "mt5", "umt5", "longt5", "pop2piano", "switch_transformers", "udop")


def tying_configs(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every configuration that ties embeddings: its path within the outermost, and itself.

    Args:
        config: of a model; one that reads images has a nested configuration of its text model, for example.
        path: of the configuration.
    """
    if not hasattr(config, "model_type") or config.model_type in _FLAG_IS_A_SCALE:
        return
    if getattr(config, FLAG, False):
        yield path, config
    for name in config.sub_configs:
        nested = getattr(config, name, None)
        if nested is not None:
            yield from tying_configs(nested, (*path, name))


def untie_before_merging(model: nn.Module) -> None:
    """Untie the weights of a model if merging is about to change one of several names of a tensor and not all alike.

    Args:
        model: the base model with the adapted layers in it.
    """
    changes = {id(layer.base_layer): id(layer) for layer in model.modules() if isinstance(layer, LoraLayer)}
    tokens = [layer for layer in model.modules() if isinstance(layer, TrainableTokensLayer)]
    # Trained tokens of tied embeddings change both alike.
    changes |= {id(layer.base_layer): id(layer.tied_adapter or layer) for layer in tokens}
    _untie_what_changes_apart(model, changes)


def untie_before_unloading(model: nn.Module) -> None:
    """Untie the weights of a model if a trained copy is about to replace one of several names of a tensor.

    Args:
        model: the base model with the wrappers of PEFT's `modules_to_save` in it.
    """
    wrappers = [module for module in model.modules() if isinstance(module, ModulesToSaveWrapper)]
    _untie_what_changes_apart(model, {id(wrapper.original_module): id(wrapper) for wrapper in wrappers})


def _untie_what_changes_apart(model: nn.Module, changes: dict[int, int]) -> None:
    """Untie all weights of a model, and say so in its configuration, if the names of a tensor change differently.

    All, because the configuration has one flag for all of them.

    Args:
        model: the base model.
        changes: identity of a module -> that of what changes it.
    """
    groups = [owners for owners in _owners(model).values() if len(owners) > 1]
    if all(len({changes.get(id(owner)) for owner, _ in owners}) == 1 for owners in groups):
        return
    for (first, attribute), *others in groups:
        weight = getattr(first, attribute)
        for owner, name in others:
            setattr(owner, name, nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad))
    for module in model.modules():
        if hasattr(module, "all_tied_weights_keys"):
            cast(Any, module).all_tied_weights_keys = {}
    for _, config in list(tying_configs(getattr(model, "config", None))):
        setattr(config, FLAG, False)


def _owners(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Return the identity of every parameter -> the modules that have it, and under which name."""
    owners: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            owners[id(parameter)].append((module, name))
    return owners


@contextmanager
def scale_kept(model: nn.Module) -> Iterator[None]:
    """Keep the flag of T5 and its descendants while PEFT takes its layers out.

    PEFT sets it to false where input and output embeddings differ.
    """
    config = getattr(model, "config", None)
    if getattr(config, "model_type", None) not in _FLAG_IS_A_SCALE:
        yield
        return
    flag = getattr(config, FLAG)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Input and output embeddings are no longer tied")
        yield
    setattr(config, FLAG, flag)
