"""The head of a classifier: which modules are new for a task, their shapes, and the order of the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sharelora.support.errors import UserError

# BERT's pooler is inside the backbone. It does what RoBERTa's classifier.dense and DeBERTa's pooler do outside of it,
# and many checkpoints lack it.
POOLER = "pooler"
Shape = tuple[int, ...]


def head_modules(model: Any) -> tuple[str, ...]:
    """Return the paths of the modules that train whatever the method: everything outside the backbone, and a pooler.

    Args:
        model: a transformers classifier, which may be on the meta device.
    """
    prefix = model.base_model_prefix
    outside = [name for name, child in model.named_children() if name != prefix and _has_weights(child)]
    inside = [f"{prefix}.{POOLER}"] if _has_weights(getattr(model.base_model, POOLER, None)) else []
    return (*inside, *outside)


def _has_weights(module: Any) -> bool:
    return isinstance(module, nn.Module) and any(True for _ in module.parameters())


def is_head(name: str, head: Sequence[str]) -> bool:
    """Whether a weight, by its name in the model, belongs to the head."""
    return name.startswith(tuple(f"{path}." for path in head))


def output_name(model: Any, head: Sequence[str]) -> str:
    """Return the name, without `.weight`, of the layer that gives the logits: the last one of the head."""
    layers = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and is_head(f"{name}.", head)]
    return layers[-1]


def named_labels(config: Any) -> tuple[str, ...]:
    """Return the names of a checkpoint's classes in the order of its outputs; empty if it has only numbers."""
    names = tuple(str(config.id2label[index]).lower() for index in sorted(config.id2label))
    return () if all(name.startswith("label_") for name in names) else names


def reorder(model: Any, head: Sequence[str], before: Sequence[str], labels: Sequence[str]) -> None:
    """Bring the outputs of a trained head into the task's order of labels.

    Args:
        model: the classifier.
        head: its head's modules.
        before: lower-cased labels in the order of its outputs.
        labels: the same labels in the task's order.
    """
    rows = torch.tensor([list(before).index(label.lower()) for label in labels])
    layer = model.get_submodule(output_name(model, head))
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(weight[rows.to(weight.device)])


def head_shapes(model: Any, head: Sequence[str]) -> dict[str, Shape]:
    """Return the shapes of a head's weights by name."""
    return {name: tuple(value.shape) for name, value in model.named_parameters() if is_head(name, head)}


def misfits(need: Mapping[str, Shape], found: Mapping[str, Shape]) -> list[str]:
    """Return what of a stored head does not fit: the name, what was found and what is needed."""
    return [
        f"{name}: found {found.get(name, 'none')}, need {need.get(name, 'none')}"
        for name in sorted(need.keys() | found.keys())
        if need.get(name) != found.get(name)
    ]


def head_of_other_shape(where: str, wrong: Sequence[str]) -> UserError:
    """Say that a head is of another task, and how to continue without it."""
    return UserError(
        f"the head in {where} is of another task ({wrong[0]}); pass --new_head to train a new one, or give one of "
        "this task"
    )
