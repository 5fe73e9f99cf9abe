"""The bank: every matrix of an adapter once, and the views through which layers use them.

Tying parameters inside layers trains correctly but breaks in files, in FSDP and across devices. So the matrices live
in one container at the tuner's level, and a layer holds a view without parameters that looks its matrix up each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharelora.plan.plan import Entry

Pad = tuple[int, int, int, int]


def version(x: Tensor) -> int:
    """Return how often a tensor was written to, as far as torch counts it."""
    return 0 if x.is_inference() else x._version


class MatrixView(nn.Module):
    """What stands in a layer where PEFT keeps a linear layer for A or B.

    The view of a fused module's B is made of several matrices, each padded to its place.

    Args:
        bank: the adapter's container.
        names: the matrices seen through this view.
        shape: (rows, columns) of what is seen.
        pads: for each matrix, columns before and after, rows before and after; None if one matrix fills the view.
        anchor: the base layer; the view appears on its device.
    """

    def __init__(
        self,
        bank: nn.ParameterDict,
        names: tuple[str, ...],
        shape: tuple[int, int],
        pads: Sequence[Pad] | None,
        anchor: nn.Module,
    ) -> None:
        super().__init__()
        # Set around nn.Module, so that the parameters and the base layer are not registered here again.
        self.__dict__["_bank"] = bank
        self.__dict__["_anchor"] = anchor
        self.names = names
        self.out_features, self.in_features = shape
        self.pads = pads
        self.bias = None

    @property
    def weight(self) -> Tensor:
        """The matrix, (rows, columns): the bank's own parameter where that is on the layer's device."""
        matrices = self._matrices()
        if self.pads is None:
            return self._here(matrices[0])
        return torch.stack([F.pad(self._here(m), pad) for m, pad in zip(matrices, self.pads, strict=True)]).sum(0)

    def _matrices(self) -> list[nn.Parameter]:
        return [self.__dict__["_bank"][name] for name in self.names]

    @property
    def version(self) -> int:
        """A number that grows with every write to a matrix seen here."""
        return sum(version(matrix) for matrix in self._matrices())

    def _here(self, matrix: Tensor) -> Tensor:
        base = getattr(self.__dict__["_anchor"], "weight", None)
        if base is None or matrix.is_meta or base.is_meta:
            return matrix
        return matrix.to(base.device)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` times the matrix, (..., rows)."""
        return F.linear(x, self.weight.to(x))

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Yield the matrices seen here, although the bank owns them: PEFT freezes and thaws adapters through this."""
        return iter(self._matrices())

    def extra_repr(self) -> str:
        return f"{self.out_features}x{self.in_features} of {', '.join(self.names)}"


def _place(entries: tuple[Entry, ...], side: str, index: int) -> Pad:
    """Return the padding that puts the matrix of a fused module's entry in its place."""
    ranks = [entry.r for entry in entries]
    before, after = sum(ranks[:index]), sum(ranks[index + 1 :])
    if side == "A":
        return (0, 0, before, after)
    site = entries[index].site
    part = site.part or 0
    return (before, after, part * site.d_out, (site.parts - 1 - part) * site.d_out)


def view(bank: nn.ParameterDict, entries: tuple[Entry, ...], side: str, anchor: nn.Module) -> MatrixView:
    """Make the view of one side of a module.

    Args:
        bank: the adapter's container.
        entries: the module's entries: one, or one per adapted slice of a fused module.
        side: A or B.
        anchor: the base layer.
    """
    names = tuple(entry.a if side == "A" else entry.b for entry in entries)
    rank, site = sum(entry.r for entry in entries), entries[0].site
    shape = (rank, site.d_in) if side == "A" else (site.d_out * site.parts, rank)
    fused = site.part is not None
    pads = [_place(entries, side, i) for i in range(len(entries))] if fused else None
    return MatrixView(bank, names, shape, pads, anchor)


def deposit(bank: nn.ParameterDict, made: Any, seen: MatrixView) -> None:
    """Move freshly made matrices into the bank, keeping those that are there already.

    The first site that uses a matrix gives its initial value, as in the authors' code.

    Args:
        bank: the adapter's container.
        made: the linear layer that PEFT made for the module.
        seen: the view that takes its place.
    """
    weight = made.weight
    for i, name in enumerate(seen.names):
        if name not in bank:
            matrix = weight if seen.pads is None else nn.Parameter(_cut(weight.data, seen.pads[i]))
            matrix.requires_grad_(weight.requires_grad)
            bank[name] = matrix


def _cut(matrix: Tensor, pad: Pad) -> Tensor:
    left, right, above, below = pad
    rows, columns = matrix.shape
    return matrix[above : rows - below, left : columns - right].clone()
