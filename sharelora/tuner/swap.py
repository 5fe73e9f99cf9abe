"""Other values for an adapter that stays where it is (PEFT's hot-swap), and room for adapters of higher rank.

PEFT swaps the matrices of each layer. Here the bank's matrices are swapped, each once, for those of an adapter that
shares alike; a smaller rank is filled up with zeros, a higher one makes room, and a site that the other adapter leaves
out gets zeros.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peft.tuners.lora import LoraLayer
from peft.utils.hotswap import _update_scaling
from peft.utils.other import get_pattern_key
from torch import Tensor

from sharelora.plan.plan import SharingPlan
from sharelora.support.errors import UserError
from sharelora.tuner.bank import MatrixView
from sharelora.tuner.config import FilledPlan
from sharelora.tuner.resize import groups_of, padded, resized
from sharelora.tuner.sites import layer_at

EXPORT = "export both as plain LoRA, or load the other one beside it"


@dataclass(frozen=True)
class Room:
    """What an adapter becomes when some of its ranks rise.

    Attributes:
        plan: with these ranks.
        names: of its matrices so far -> there.
        layers: path -> layer, of the modules that change.
    """

    plan: SharingPlan
    names: dict[str, str]
    layers: dict[str, Any]


def swap(tuner: Any, tensors: Mapping[str, Tensor], adapter: str, config: Any, bank: str) -> None:
    """Give an adapter the values and the scaling of another one.

    Args:
        tuner: a ShareLoraModel.
        tensors: of the other adapter, under the names that PEFT makes of those in its file.
        adapter: the name of the adapter.
        config: of the other adapter.
        bank: what comes before the name of a matrix in that of its tensor.

    Raises:
        UserError: the adapter is merged, or the other one has more sites, shares differently, has a higher rank where
            none can rise, or more than matrices.
    """
    if any(adapter in getattr(module, "merged_adapters", ()) for module in tuner.modules()):
        raise UserError(f"adapter {adapter!r} is merged into the base; unmerge it before it is swapped")
    matrices = {key.partition(bank)[2].removesuffix(f".{adapter}"): tensors[key] for key in tensors if bank in key}
    if config.use_dora or tuner.peft_config[adapter].lora_bias or len(matrices) < len(tensors):
        raise UserError(
            "an adapter with heads, embeddings, biases or DoRA's magnitudes cannot be swapped in; load it beside the "
            "other one"
        )
    new, own = SharingPlan.from_json(config.plan or {}), tuner.plans[adapter]
    if damage := new.difference({name: tuple(value.shape) for name, value in matrices.items()}):
        raise UserError(f"the adapter file does not hold the matrices of its plan: {damage}; copy it again")
    names, off = _counterparts(new, own)
    values = dict.fromkeys(off) | {other: matrices[name] for name, other in names.items()}
    room = _room(tuner, adapter, {entry.site.name: entry.r for entry in new.entries})
    shapes = {name: room.plan.matrices[room.names[name]] for name in values}
    filled = {
        name: padded(value, shapes[name], groups_of(own, name)) if value.shape != shapes[name] else value
        for name, value in values.items()
        if value is not None
    }
    _make(tuner, adapter, room)
    for name in values:
        matrix = tuner.bank(adapter)[room.names[name]].data
        # In place: a compiled model has the addresses.
        matrix.copy_(filled[name]) if name in filled else matrix.zero_()
    scalings = {path: _alpha(config, new, path) / _root(new.by_path[path][0].r, config) for path in new.by_path}
    for path, scaling in scalings.items():
        _update_scaling(layer_at(tuner.model, path), adapter_name=adapter, scaling=scaling)
    _record(tuner, adapter, own, scalings)


def pad(tuner: Any, rank: int) -> None:
    """Give every adapter of a model a higher rank, without a change of what it computes.

    Raises:
        UserError: an adapter has a higher rank already, or several ranks whose matrices would get one name, or fused
            modules.
    """
    rooms = {}
    for adapter, plan in tuner.plans.items():
        most = max(entry.r for entry in plan.entries)
        if most > rank:
            raise UserError(f"adapter {adapter!r} has rank {most}; give a target_rank of {most} or more")
        rooms[adapter] = _room(tuner, adapter, {entry.site.name: rank for entry in plan.entries})
    for adapter, room in rooms.items():
        before = tuner.plans[adapter]
        _make(tuner, adapter, room)
        _record(tuner, adapter, before, {})


def _room(tuner: Any, adapter: str, needed: Mapping[str, int]) -> Room:
    """Return the room for adapters of other ranks, without a change of the model.

    Args:
        tuner: a ShareLoraModel.
        adapter: its name.
        needed: name of a site -> the least rank.

    Raises:
        UserError: a rank that cannot rise.
    """
    plan = tuner.plans[adapter]
    ranks = _ranks(plan, needed)
    new, names = resized(plan, lambda entry: ranks[entry.site.name])
    raised = [entry for entry in plan.entries if ranks[entry.site.name] != entry.r]
    layers = {entry.site.path: layer_at(tuner.model, entry.site.path) for entry in raised}
    plain = all(isinstance(layer, LoraLayer) and adapter in layer.lora_A for layer in layers.values())
    whole = all(entry.site.part is None and entry.site.experts == max(entry.site.blocks) == 1 for entry in raised)
    if len(set(names.values())) < len(names) or not plain or not whole:
        most = max(ranks.values())
        raise UserError(
            f"adapter {adapter!r} has fused modules, embeddings, experts, matrices of blocks, attentions adapted as a "
            f"whole, or different ranks in one kind of module, which cannot be raised to rank {most}; {EXPORT}"
        )
    for name, other in names.items():
        if other != name:
            groups_of(plan, name)
    return Room(new, names, layers)


def _ranks(plan: SharingPlan, needed: Mapping[str, int]) -> dict[str, int]:
    """Return the rank of each site: the one that is needed or its own, and one for all that share a matrix."""
    ranks = {entry.site.name: max(entry.r, needed.get(entry.site.name, 0)) for entry in plan.entries}
    together = [[site.name for site in sites] for sites in plan.users.values()]
    together += [[entry.site.name for entry in entries] for entries in plan.by_path.values()]
    while True:
        before = dict(ranks)
        for sites in together:
            ranks.update(dict.fromkeys(sites, max(ranks[site] for site in sites)))
        if ranks == before:
            return ranks


def _make(tuner: Any, adapter: str, room: Room) -> None:
    """Raise the ranks of an adapter, without a change of what it computes."""
    bank, plan = tuner.bank(adapter), tuner.plans[adapter]
    for old, name in room.names.items():
        if old != name:
            matrix = bank.pop(old)
            matrix.data, matrix.grad = padded(matrix.data, room.plan.matrices[name], groups_of(plan, old)), None
            bank[name] = matrix
    for path, layer in room.layers.items():
        for side, views in (("A", layer.lora_A), ("B", layer.lora_B)):
            entries, bias = room.plan.by_path[path], views[adapter].bias
            views[adapter] = MatrixView(bank, entries, side, layer.get_base_layer(), bias)
    tuner.plans[adapter] = room.plan


def _counterparts(new: SharingPlan, own: SharingPlan) -> tuple[dict[str, str], set[str]]:
    """Return, for each matrix of another adapter, the one whose place it takes, and those that get zeros.

    A site that the other adapter leaves out adds nothing if one of its two matrices is zero.
    """
    there, here = ({entry.site.name: entry for entry in plan.entries} for plan in (new, own))
    if more := there.keys() - here.keys():
        raise UserError(f"the other adapter has {min(more)}, which this one leaves out; {EXPORT}")
    names: dict[str, str] = {}
    for site, entry in there.items():
        stacked = entry.site.experts > 1 or max(entry.site.blocks) > 1
        if stacked and entry.r != here[site].r:
            raise UserError(
                f"{site} is a stack of matrices, of rank {here[site].r} here and {entry.r} there; need one rank; "
                f"{EXPORT}"
            )
        for name, other in ((entry.a, here[site].a), (entry.b, here[site].b)):
            if names.setdefault(name, other) != other:
                raise UserError(f"the adapter shares {name} between layers that have their own here; {EXPORT}")
    if len(set(names.values())) < len(names):
        raise UserError(f"the adapter has its own matrices for layers that share one here; {EXPORT}")
    off: set[str] = set()
    for site in here.keys() - there.keys():
        free = {here[site].a, here[site].b} - set(names.values())
        if not free:
            raise UserError(
                f"the other adapter leaves out {site}, whose two matrices are shared with sites that it has; {EXPORT}"
            )
        off |= free
    return names, off


def _alpha(config: Any, plan: SharingPlan, path: str) -> float:
    """Return the alpha of a module; what is inside of an attention has that of the whole."""
    alpha: float = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, plan.owner(path)), config.lora_alpha)
    return alpha


def _root(rank: int, config: Any) -> float:
    """Return what alpha is divided by."""
    return math.sqrt(rank) if config.use_rslora else rank


def _record(tuner: Any, adapter: str, before: SharingPlan, scalings: Mapping[str, float]) -> None:
    """Write rank and alpha into a configuration of the adapter's own, so that what is saved next is what there is.

    Args:
        tuner: a ShareLoraModel.
        adapter: its name.
        before: the plan that its configuration describes.
        scalings: of modules that have got another one.
    """
    config, plan = copy.copy(tuner.peft_config[adapter]), tuner.plans[adapter]
    paths = [path for path in plan.by_path if plan.owner(path) == path]
    given = {path: _alpha(config, before, path) for path in paths}
    kept = {path: given[path] / _root(before.by_path[path][0].r, config) for path in paths}
    alphas = {path: scalings.get(path, kept[path]) * _root(plan.by_path[path][0].r, config) for path in paths}
    if any(not math.isclose(alphas[path], given[path]) for path in paths):
        one = len({round(alpha, 9) for alpha in alphas.values()}) == 1
        config.lora_alpha = next(iter(alphas.values())) if one else config.lora_alpha
        config.alpha_pattern = {} if one else {re.escape(path): alpha for path, alpha in alphas.items()}
    ranks = {path: plan.by_path[path][0].r for path in paths}
    if len(set(ranks.values())) == 1:
        config.r = next(iter(ranks.values()))
        config.rank_pattern = dict.fromkeys(config.rank_pattern, config.r)
    elif plan != before and config.share_plan is None:
        config.rank_pattern = {re.escape(path): rank for path, rank in ranks.items()}
    config.plan = FilledPlan(plan.to_json())
    if config.share_plan is not None:
        config.share_plan = plan.to_json()
    tuner.peft_config[adapter] = config
