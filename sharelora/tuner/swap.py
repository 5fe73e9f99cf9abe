"""Other values for an adapter that stays where it is (PEFT's hot-swap), and room for adapters of higher rank.

PEFT swaps the matrices of each layer. Here the bank's matrices are swapped, each once, for those of an adapter that
shares alike; a smaller rank is filled up with zeros.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from typing import Any

from peft.tuners.lora import LoraLayer
from peft.utils.hotswap import _update_scaling
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from sharelora.plan.plan import SharingPlan
from sharelora.support.errors import UserError
from sharelora.tuner.bank import MatrixView
from sharelora.tuner.config import FilledPlan
from sharelora.tuner.resize import padded, resized
from sharelora.tuner.sites import layer_at

EXPORT = "export both as plain LoRA, or load the other one beside it"


def swap(tuner: Any, tensors: Mapping[str, Tensor], adapter: str, config: Any, bank: str) -> None:
    """Give an adapter the values and the scaling of another one.

    Args:
        tuner: a ShareLoraModel.
        tensors: of the other adapter, under the names that PEFT makes of those in its file.
        adapter: the name of the adapter.
        config: of the other adapter.
        bank: what comes before the name of a matrix in that of its tensor.

    Raises:
        UserError: the adapter is merged, or the other one has other sites, shares differently, has a higher rank or
            more than matrices.
    """
    if any(adapter in getattr(module, "merged_adapters", ()) for module in tuner.modules()):
        raise UserError(f"adapter {adapter!r} is merged into the base; unmerge it before it is swapped")
    matrices = {key.partition(bank)[2].removesuffix(f".{adapter}"): tensors[key] for key in tensors if bank in key}
    if config.use_dora or len(matrices) < len(tensors):
        raise UserError(
            "an adapter with heads, embeddings or DoRA's magnitudes cannot be swapped in; load it beside the other one"
        )
    new, own = SharingPlan.from_json(config.plan or {}), tuner.plans[adapter]
    if damage := new.difference({name: tuple(value.shape) for name, value in matrices.items()}):
        raise UserError(f"the adapter file does not hold the matrices of its plan: {damage}; copy it again")
    names = _counterparts(new, own)
    for name, value in matrices.items():
        matrix = tuner.bank(adapter)[names[name]]
        # In place: a compiled model has the addresses.
        matrix.data.copy_(padded(value, matrix.shape))
    scalings = {}
    for path, entries in new.by_path.items():
        alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, path), config.lora_alpha)
        scalings[path] = alpha / _root(entries[0].r, config)
        _update_scaling(layer_at(tuner.model, path), adapter_name=adapter, scaling=scalings[path])
    _record(tuner, adapter, own, scalings)


def pad(tuner: Any, rank: int) -> None:
    """Give every adapter of a model a higher rank, without a change of what it computes.

    Raises:
        UserError: an adapter has a higher rank already, or several ranks whose matrices would get one name, or fused
            modules.
    """
    changes = {}
    for adapter, plan in tuner.plans.items():
        most = max(entry.r for entry in plan.entries)
        if most > rank:
            raise UserError(f"adapter {adapter!r} has rank {most}; give a target_rank of {most} or more")
        new, names = resized(plan, lambda entry: rank)
        layers = {path: layer_at(tuner.model, path) for path in new.by_path}
        plain = all(isinstance(layer, LoraLayer) and adapter in layer.lora_A for layer in layers.values())
        one_view = all(entry.site.part is None and entry.site.groups == 1 for entry in plan.entries)
        if len(set(names.values())) < len(names) or not plain or not one_view:
            raise UserError(
                f"adapter {adapter!r} has fused or grouped modules, embeddings, attentions adapted as a whole, or "
                f"different ranks in one kind of module, which cannot be raised to rank {rank}; {EXPORT}"
            )
        changes[adapter] = new, names, layers
    for adapter, (new, names, layers) in changes.items():
        bank = tuner.bank(adapter)
        for old, name in names.items():
            matrix = bank.pop(old)
            bank[name] = nn.Parameter(padded(matrix.data, new.matrices[name]), matrix.requires_grad)
        scalings = {}
        for path, layer in layers.items():
            for side, views in (("A", layer.lora_A), ("B", layer.lora_B)):
                views[adapter] = MatrixView(bank, new.by_path[path], side, layer.get_base_layer())
            scalings[path] = float(layer.scaling[adapter])
        tuner.plans[adapter] = new
        _record(tuner, adapter, new, scalings)


def _counterparts(new: SharingPlan, own: SharingPlan) -> dict[str, str]:
    """Return, for each matrix of another adapter, the one whose place it takes."""
    there, here = ({entry.site.name: entry for entry in plan.entries} for plan in (new, own))
    if there.keys() != here.keys():
        site = min(there.keys() ^ here.keys())
        raise UserError(f"only one of the two adapters has {site}; {EXPORT}")
    names: dict[str, str] = {}
    for site, entry in there.items():
        if entry.site.groups > 1 and entry.r != here[site].r:
            raise UserError(f"{site} works in groups of rank {here[site].r} here and {entry.r} there; {EXPORT}")
        if entry.r > here[site].r:
            raise UserError(
                f"the adapter has rank {entry.r} at {site}, where there is room for {here[site].r}; call peft's "
                f"prepare_model_for_compiled_hotswap(model, target_rank={entry.r}) first"
            )
        for name, other in ((entry.a, here[site].a), (entry.b, here[site].b)):
            if names.setdefault(name, other) != other:
                raise UserError(f"the adapter shares {name} between layers that have their own here; {EXPORT}")
    if len(set(names.values())) < len(names):
        raise UserError(f"the adapter has its own matrices for layers that share one here; {EXPORT}")
    return names


def _root(rank: int, config: Any) -> float:
    """Return what alpha is divided by."""
    return math.sqrt(rank) if config.use_rslora else rank


def _record(tuner: Any, adapter: str, plan: SharingPlan, scalings: Mapping[str, float]) -> None:
    """Write rank and alpha into a configuration of the adapter's own, so that what is saved next is what there is."""
    config = copy.copy(tuner.peft_config[adapter])
    alphas = {path: scaling * _root(plan.by_path[path][0].r, config) for path, scaling in scalings.items()}
    ranks = {path: entries[0].r for path, entries in plan.by_path.items()}
    before = {
        path: config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, path), config.lora_alpha)
        for path in alphas
    }
    if any(not math.isclose(alphas[path], before[path]) for path in alphas):
        one = len({round(alpha, 9) for alpha in alphas.values()}) == 1
        config.lora_alpha = next(iter(alphas.values())) if one else config.lora_alpha
        config.alpha_pattern = {} if one else {re.escape(path): alpha for path, alpha in alphas.items()}
    if len(set(ranks.values())) == 1:
        config.r, config.rank_pattern = next(iter(ranks.values())), {}
    config.plan = FilledPlan(plan.to_json())
    if config.share_plan is not None:
        config.share_plan = plan.to_json()
    tuner.peft_config[adapter] = config
