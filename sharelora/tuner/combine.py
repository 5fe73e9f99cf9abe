"""Adapters combined into one, as PEFT combines LoRAs, matrix by matrix instead of layer by layer.

A combination is exact where everything that a new matrix is made of is the same for all sites that use it. PEFT's
`cat` and `linear` make A of As and B of Bs, so adapters that share alike keep their sharing. `svd` makes both of the
product, so A and B have to be shared by the same sites.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from sharelora.plan.plan import Entry, SharingPlan
from sharelora.support.errors import UserError
from sharelora.tuner.resize import padded
from sharelora.tuner.sites import layer_at


@dataclass(frozen=True)
class Part:
    """What one adapter gives to one site: the names of its matrices, its weight, and the site's scaling."""

    adapter: str
    a: str
    b: str
    weight: float
    scaling: float


def combine(
    tuner: Any,
    adapters: Sequence[str],
    weights: Sequence[float],
    plan: SharingPlan,
    kind: str,
    options: Mapping[str, Any],
) -> dict[str, Tensor]:
    """Return the matrices of a combination by name, padded with zeros to the shapes of its plan.

    Args:
        tuner: a ShareLoraModel.
        adapters: to be combined.
        weights: one for each of them.
        plan: of the combination.
        kind: PEFT's `combination_type`, one of those that it knows.
        options: for PEFT's arithmetic: density, majority_sign_method, svd_clamp, svd_full_matrices, svd_driver.

    Raises:
        UserError: sites that are to share a matrix of the combination would need different ones.
    """
    entries = {adapter: {e.site.name: e for e in tuner.plans[adapter].entries} for adapter in adapters}
    found: dict[str, Tensor] = {}
    sources: dict[str, Any] = {}
    for entry in plan.entries:
        parts = []
        for adapter, weight in zip(adapters, weights, strict=True):
            if own := entries[adapter].get(entry.site.name):
                scaling = float(layer_at(tuner.model, own.site.path).scaling[adapter])
                parts.append(Part(adapter, own.a, own.b, weight, scaling))
        made_of = _made_of(parts, kind)
        for name in (entry.a, entry.b):
            if sources.setdefault(name, made_of[name == entry.b]) != made_of[name == entry.b]:
                raise UserError(_refusal(kind, entry, name))
        if entry.a not in found or entry.b not in found:
            for name, value in zip((entry.a, entry.b), _combined(tuner, parts, kind, entry, options), strict=True):
                found.setdefault(name, value)
    return found


def _made_of(parts: Sequence[Part], kind: str) -> tuple[Any, Any]:
    """Return, for A and for B of a site, everything that their combination depends on."""
    scales = [part.weight * part.scaling for part in parts]
    a = [(part.adapter, part.a) for part in parts]
    b = [(part.adapter, part.b) for part in parts]
    if kind.endswith("svd"):
        return (a, b, scales), (a, b, scales)
    return (a, scales), b if kind == "cat" else (b, scales)


def _refusal(kind: str, entry: Entry, name: str) -> str:
    why = (
        "svd makes A and B of each layer for each other, so both would have to be shared by the same layers; "
        "use combination_type='cat' or 'linear'"
        if kind.endswith("svd")
        else "the adapters share differently there, or scale layers differently; name the one that shares least first"
    )
    return f"{kind} gives {entry.site.name} another {name} than the layers that it is to share it with: {why}"


def _combined(
    tuner: Any, parts: Sequence[Part], kind: str, entry: Entry, options: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """Return A and B of one site, in the shapes of its entry."""
    adapters, weights = [part.adapter for part in parts], [part.weight for part in parts]
    # As matrices, whatever else they are: a convolution's A is its kernel.
    a = {part.adapter: tuner.bank(part.adapter)[part.a].data.flatten(1) for part in parts}
    b = {part.adapter: tuner.bank(part.adapter)[part.b].data.flatten(1) for part in parts}
    if any(a[name].shape[0] != b[name].shape[1] for name in adapters):
        raise UserError(f"{entry.site.name} works in groups, whose adapters cannot be combined; leave it out")
    scaling = {part.adapter: part.scaling for part in parts}
    # What PEFT's arithmetic reads of a layer.
    layer = SimpleNamespace(
        lora_A={name: SimpleNamespace(weight=a[name]) for name in adapters},
        lora_B={name: SimpleNamespace(weight=b[name]) for name in adapters},
        lora_embedding_A={},
        scaling=scaling,
        get_delta_weight=lambda name: scaling[name] * (b[name] @ a[name]),
    )
    density, sign = options["density"], options["majority_sign_method"]
    if kind == "cat":
        made = (
            torch.cat([a[part.adapter] * part.weight * part.scaling for part in parts]),
            torch.cat([b[name] for name in adapters], dim=1),
        )
    elif kind.endswith("svd"):
        made = tuner._svd_generalized_task_arithmetic_weighted_adapter(
            *(kind, adapters, weights, entry.r, layer, None, None, density, sign, options["svd_clamp"]),
            full_matrices=options["svd_full_matrices"],
            driver=options["svd_driver"],
        )
    else:
        made = tuner._generalized_task_arithmetic_weighted_adapter(kind, adapters, weights, layer, density, sign)
    shapes = entry.shapes()
    return padded(made[0], shapes[entry.a]), padded(made[1], shapes[entry.b])
