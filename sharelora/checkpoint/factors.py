"""Products of two thin matrices, B A, through their factors alone: the dense (D_out, D_in) product is never made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Product:
    """The change B A of one weight.

    Attributes:
        b: (D_out, r).
        a: (r, D_in).
    """

    b: Tensor
    a: Tensor

    @property
    def t(self) -> Product:
        """The transposed product, (D_in, D_out)."""
        return Product(self.a.T, self.b.T)

    def scaled(self, factor: float) -> Product:
        """Return factor * B A."""
        return Product(factor * self.b, self.a)

    def norm(self) -> float:
        """Return the Frobenius norm: that of the two triangles of QR, since the Qs turn without stretching."""
        return float((triangle(self.b) @ triangle(self.a.T).T).norm())


def triangle(matrix: Tensor) -> Tensor:
    """Return R of the QR decomposition of a matrix."""
    return torch.linalg.qr(matrix, mode="r").R


def total(products: Sequence[Product]) -> Product:
    """Return the sum of products of one shape as one product, whose rank is the sum of theirs."""
    return Product(torch.cat([p.b for p in products], dim=1), torch.cat([p.a for p in products]))


def distance(first: Product, second: Product) -> float:
    """Return the Frobenius norm of a difference, without the cancellation that squared norms would bring."""
    if torch.equal(first.a, second.a):  # what was taken over unchanged differs by exactly nothing
        return Product(first.b - second.b, first.a).norm()
    return total([first, second.scaled(-1)]).norm()


@dataclass(frozen=True)
class Space:
    """The joint row space of some products, by importance.

    Attributes:
        values: (k,), singular values of the products below each other, falling.
        rows: (k, D_in), its orthonormal right singular vectors.
    """

    values: Tensor
    rows: Tensor

    def rank(self, tolerance: float = 1e-6) -> int:
        """Return how many values exceed the tolerance, a part of the largest one, below which fp32 has only noise."""
        return int((self.values > tolerance * self.values[0]).sum())

    def rank_for(self, energy: float) -> int:
        """Return the least rank that keeps this part of the sum of squares, at most `rank()` and at least 1."""
        if not self.rank():
            return 1
        kept = self.values.square().cumsum(0) / self.values.square().sum()
        # At energy 1 rounding decides in which of the last, empty directions the sum is reached.
        return min(int((kept < energy).sum()) + 1, self.rank())


def row_space(products: Sequence[Product]) -> Space:
    """Return the joint row space of products with equal D_in.

    B = Q R, and a Q changes neither singular values nor rows, so a small stack of R A stands for the dense one.
    """
    stack = torch.cat([triangle(p.b) @ p.a for p in products])
    _, values, rows = torch.linalg.svd(stack, full_matrices=False)
    return Space(values, rows)
