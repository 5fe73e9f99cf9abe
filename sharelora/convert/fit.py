"""The shared matrices that come closest to the changes of all their sites, in the least-squares sense.

To choose are matrices A_j and B_k that minimise

    sum over sites i of  w_i || D_i - B_k(i) A_j(i) ||^2,    D_i = B_i A_i of the given LoRA, w_i its scaling squared.

Sites that use the same A and the same B pull at one product, so only their weighted mean counts: they form a cell.
Where all cells use one A and each has a B of its own (or the other way round), the best row space of the stacked cells
is the answer; in every other case A and B are improved in turn.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sharelora.support.errors import UserError

logger = logging.getLogger(__name__)


MOST_SWEEPS = 2000
# A sweep that improves the fit by a smaller part of the whole is the last.
ENOUGH = 1e-13


@dataclass(frozen=True)
class Cell:
    """The sites that use one A and one B.

    Attributes:
        a: name of the A.
        b: name of the B.
        weight: sum of the sites' weights.
        mean: the weighted mean of their products.
    """

    a: str
    b: str
    weight: float
    mean: Product

    @property
    def t(self) -> Cell:
        """The same problem transposed: A and B have changed places."""
        return Cell(self.b, self.a, self.weight, self.mean.t)

    @property
    def weighted(self) -> Product:
        """The mean with the root of the weight, as it stands in the sum of squares."""
        return self.mean.scaled(self.weight**0.5)


def make_cells(sites: Iterable[tuple[str, str, float, Product]]) -> list[Cell]:
    """Join sites that use the same matrices.

    Args:
        sites: name of the A, name of the B, weight, product.
    """
    groups: dict[tuple[str, str], list[tuple[float, Product]]] = defaultdict(list)
    for a, b, weight, product in sites:
        groups[a, b].append((weight, product))
    cells = []
    for (a, b), members in groups.items():
        whole = sum(weight for weight, _ in members)
        mean = total([product.scaled(weight / whole if whole else 0.0) for weight, product in members])
        cells.append(Cell(a, b, whole, mean))
    return cells


def _by(cells: Sequence[Cell], name: Callable[[Cell], str]) -> dict[str, list[Cell]]:
    groups: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[name(cell)].append(cell)
    return groups


def spaces(cells: Sequence[Cell]) -> dict[str, Space]:
    """Return the joint spaces that decide how large a rank is worth having: matrix name -> row space.

    It is the one B's (of the transposed products) if the cells have one B and several As, else that of each A.
    """
    by_a, by_b = _by(cells, lambda cell: cell.a), _by(cells, lambda cell: cell.b)
    if len(by_b) == 1 and len(by_a) > 1:
        return {cells[0].b: row_space([cell.t.weighted for cell in cells])}
    return {name: row_space([cell.weighted for cell in own]) for name, own in by_a.items()}


def fit(cells: Sequence[Cell], found: dict[str, Space], rank: int) -> dict[str, Tensor]:
    """Return the best matrices of connected cells: name -> A, (rank, D_in), or B, (D_out, rank).

    Args:
        cells: whatever shares a matrix, directly or through others.
        found: what `spaces` returned for them.
        rank: of every matrix.
    """
    if len({cell.a for cell in cells}) == 1:
        return _fit_one_a(cells, found[cells[0].a], rank)
    if len({cell.b for cell in cells}) == 1:
        turned = _fit_one_a([cell.t for cell in cells], found[cells[0].b], rank)
        return {name: matrix.T for name, matrix in turned.items()}
    return alternate(cells, {name: _first_rows(space, rank) for name, space in found.items()})


def _first_rows(space: Space, rank: int) -> Tensor:
    # A stack of few thin matrices has fewer rows than a rank that others in the same layers need.
    rows = space.rows[:rank]
    return F.pad(rows, (0, 0, 0, rank - rows.shape[0]))


def _fit_one_a(cells: Sequence[Cell], space: Space, rank: int) -> dict[str, Tensor]:
    """Solve the case of one A exactly: the first right singular vectors, and each product's part in them."""
    a = _first_rows(space, rank)
    return {cells[0].a: a, **{cell.b: cell.mean.b @ (cell.mean.a @ a.T) for cell in cells}}


def alternate(cells: Sequence[Cell], start: dict[str, Tensor], sweeps: int = MOST_SWEEPS) -> dict[str, Tensor]:
    """Improve A and B in turn, each time by least squares with the other fixed; the error never grows.

    Args:
        cells: any pattern of sharing.
        start: name of every A -> (rank, D_in).
        sweeps: how often at most.
    """
    a, turned = dict(start), [cell.t for cell in cells]
    whole = sum(cell.weighted.norm() ** 2 for cell in cells)
    before = 0.0
    for _ in range(sweeps):
        b, captured = _solve(cells, a)
        if captured - before <= ENOUGH * whole:
            return {**a, **b}
        before = captured
        a = {name: matrix.T for name, matrix in _solve(turned, {n: m.T for n, m in b.items()})[0].items()}
    logger.warning("the shared matrices were still improving after %d rounds; the error could be a little less", sweeps)
    return {**a, **_solve(cells, a)[0]}


def _solve(cells: Sequence[Cell], a: dict[str, Tensor]) -> tuple[dict[str, Tensor], float]:
    """Return the best Bs for given As, and how much of the sum of squares the fit captures."""
    found, captured = {}, 0.0
    for name, own in _by(cells, lambda cell: cell.b).items():
        gram = torch.stack([cell.weight * a[cell.a] @ a[cell.a].T for cell in own]).sum(0)
        pull = torch.stack([cell.weight * cell.mean.b @ (cell.mean.a @ a[cell.a].T) for cell in own]).sum(0)
        # Directions that no site uses have no part in the answer.
        found[name] = pull @ torch.linalg.pinv(gram, hermitian=True, rtol=1e-13)
        captured += float((found[name] * pull).sum())
    return found, captured


# Products of two thin matrices, B A, through their factors alone: the dense (D_out, D_in) product is never made.


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


# How large the matrices of a compressed adapter may be.


ENERGY = 0.99


@dataclass(frozen=True)
class Size:
    """How large the new matrices may be.

    Attributes:
        rank: of every shared matrix; None means the least that keeps `energy`.
        energy: part of the sum of squared singular values, above 0 and at most 1; None means 0.99, and that matrices
            which already agree stay as they are.

    Raises:
        UserError: a value out of range, or both.
    """

    rank: int | None = None
    energy: float | None = None

    def __post_init__(self) -> None:
        if self.rank is not None and self.energy is not None:
            raise UserError(f"found rank {self.rank} and energy {self.energy}; each decides the rank; drop one")
        if self.rank is not None and self.rank < 1:
            raise UserError(f"found rank {self.rank}; a rank is 1 or more, or auto; set --rank")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise UserError(f"found energy {self.energy:g}; need a part of the whole, above 0 and at most 1")

    def keeps(self, own: int) -> bool:
        """Whether matrices of this rank that already agree may stay as they are."""
        return own == self.rank if self.rank is not None else self.energy is None

    def choose(self, found: Sequence[Space], where: str) -> int:
        """Return the rank of matrices whose sites have these joint spaces.

        Raises:
            UserError: the rank asked for is above that of all of them.
        """
        most = max(space.rank() for space in found)
        if self.rank is None:
            return max(space.rank_for(self.energy or ENERGY) for space in found)
        if most and self.rank > most:
            raise UserError(
                f"found rank {self.rank}; the changes of {where} have rank {most} together, and more would be empty; "
                f"choose --rank {most} or less, or auto"
            )
        return self.rank
