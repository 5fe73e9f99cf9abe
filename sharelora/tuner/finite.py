"""Weights are numbers: the one check of all that is written or converted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from sharelora.support.errors import UserError


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor has neither NaN nor an infinite number; one of integers never has."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    # The least and the largest number are NaN if any is; unlike a mask of all, they take no memory.
    return all(math.isfinite(float(end)) for end in torch.aminmax(tensor.detach()))


def require_finite(tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]], where: object, advice: str) -> None:
    """Refuse tensors of which one has NaN or an infinite number.

    Args:
        tensors: name -> tensor; pairs may be made one at a time, so that one of them is in memory.
        where: they are, for the message.
        advice: what to do about it.

    Raises:
        UserError: one has; the first is named.
    """
    pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
    bad = [name for name, tensor in pairs if not is_finite(tensor)]
    if bad:
        raise UserError(
            f"found NaN or infinite numbers in {where}, in {len(bad)} tensors, first {bad[0]}; need finite numbers; "
            f"{advice}"
        )
