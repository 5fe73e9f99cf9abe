"""The same sharing with other ranks, and differences of adapters, which have twice the rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from sharelora.plan.plan import Entry, SharingPlan
from sharelora.support.errors import UserError
from sharelora.tuner.config import FilledPlan


def resized(plan: SharingPlan, rank: Callable[[Entry], int]) -> tuple[SharingPlan, dict[str, str]]:
    """Return a plan with other ranks, and for each matrix its name there.

    Args:
        plan: names end with the shapes of their matrices, as all that rules and rows make.
        rank: of each site, the same for all that share a matrix.
    """
    entries, names = [], {}
    for entry in plan.entries:
        wanted = replace(entry, r=rank(entry))
        for side in ("a", "b"):
            name = getattr(entry, side)
            shape = "x".join(map(str, wanted.shapes()[name]))
            names[name] = f"{name.rpartition('/')[0]}/{shape}"
        entries.append(replace(wanted, a=names[entry.a], b=names[entry.b]))
    return SharingPlan(tuple(entries)), names


def groups_of(plan: SharingPlan, name: str) -> int:
    """Return into how many groups the rank of a matrix is cut, so that a higher one makes each of them longer.

    Raises:
        UserError: convolutions of several numbers of groups share it.
    """
    groups = sorted({site.groups for site in plan.users[name]})
    if len(groups) > 1:
        raise UserError(
            f"{name} is of convolutions with {' and '.join(map(str, groups))} groups, so its rank cannot change; "
            "take adapters of one rank"
        )
    return groups[0]


def padded(matrix: Tensor, shape: Sequence[int], groups: int = 1) -> Tensor:
    """Return a matrix with zeros below each group of its rows and to its right.

    Args:
        matrix: two dimensions, or those of `shape`, of which all but the first two are alike.
        shape: what it is to have.
        groups: of equally many rows.

    Raises:
        UserError: the matrix is larger.
    """
    matrix = matrix.flatten(1)
    rows, columns = shape[0], prod(shape[1:])
    if matrix.shape[0] > rows or matrix.shape[1] > columns:
        raise UserError(
            f"a matrix of shape {tuple(matrix.shape)} has no place in one of {tuple(shape)}: a hand-written plan "
            "leaves room for its own rank alone; take an adapter without share_plan first"
        )
    below = rows // groups - matrix.shape[0] // groups
    return F.pad(matrix.unflatten(0, (groups, -1)), (0, columns - matrix.shape[1], 0, below)).reshape(tuple(shape))


def differences(config: Any, plan: SharingPlan, tensors: Mapping[str, Tensor], bank: str) -> dict[str, Tensor]:
    """Fit a saved difference of two adapters, of twice the rank, with its names and its plan.

    PEFT subtracts the initial matrices from the trained ones by putting them side by side: [A; A0] and [B, -B0].

    Args:
        config: that is saved with it; PEFT doubles its ranks.
        plan: of the trained adapter.
        tensors: the difference, under the names of the trained adapter.
        bank: what comes before the name of a matrix in that of its tensor.

    Raises:
        UserError: the adapter is DoRA, whose magnitudes have no difference.
    """
    if config.use_dora:
        raise UserError(
            "the difference of two DoRA adapters is no adapter: magnitudes do not add up; save without "
            "path_initial_model_for_weight_conversion"
        )
    doubled, names = resized(plan, lambda entry: 2 * entry.r)
    config.plan = FilledPlan(doubled.to_json())
    if config.share_plan is not None:
        config.share_plan = doubled.to_json()
    renamed = {}
    for key, value in tensors.items():
        start, found, name = key.rpartition(bank)
        renamed[f"{start}{found}{names.get(name, name)}"] = value
    return renamed
