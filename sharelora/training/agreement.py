"""Processes that train together start from the same place and hold the same weights, bit by bit, or are stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from sharelora.errors import UserError


def digest(model: nn.Module) -> str:
    """Return a fingerprint of the weights that are trained, by name and bit by bit."""
    total = hashlib.sha256()
    for name, value in _trained(model):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _trained(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return sorted((name, value) for name, value in model.named_parameters() if value.requires_grad)


def require_agreement(digests: Sequence[str], step: int, last_good: Any) -> None:
    """Compare what all processes hold.

    Args:
        digests: of each process, by rank.
        step: updates so far.
        last_good: the last good checkpoint, or None.

    Raises:
        UserError: two differ; nothing more may be saved.
    """
    others = [rank for rank, found in enumerate(digests) if found != digests[0]]
    if others:
        raise UserError(
            f"after update {step} process {', '.join(map(str, others))} of {len(digests)} holds other weights than "
            f"process 0; need the same bit by bit; the last good checkpoint is {last_good or 'none'}; start again to "
            "go on from it, with the same machine, driver and packages for all processes"
        )


def require_same_start(found: Sequence[str | None]) -> None:
    """Compare the checkpoints that processes would go on from.

    Args:
        found: of each process, by rank; None for a new start.

    Raises:
        UserError: two differ, as where machines do not share a folder.
    """
    other = next((rank for rank, place in enumerate(found) if place != found[0]), None)
    if other is not None:
        raise UserError(
            f"process 0 goes on from {found[0] or 'nothing'} and process {other} from {found[other] or 'nothing'}; "
            "need an --output_dir that all machines share; see to that and start again"
        )
