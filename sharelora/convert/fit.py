"""The shared matrices that come closest to the changes of all their sites, in the least-squares sense.

Wanted are matrices A_j and B_k that minimise

    sum over sites i of  w_i || D_i - B_k(i) A_j(i) ||^2,    D_i = B_i A_i of the given LoRA, w_i its scaling squared.

Sites that use the same A and the same B pull at one product, so only their weighted mean counts: it is the target of
that product. Where all targets use one A and each has its own B (or the other way round), the best row space of
the stacked targets is the answer; in every other case A and B are improved in turn.

Changes of weights are products B A of thin matrices. All work is done on these two factors: the dense (D_out, D_in)
product is never computed.
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

MAX_SWEEPS = 2000
# Sweeps end with one that improves the fit by less than this fraction of the whole.
TOLERANCE = 1e-13
# Part of the sum of squared singular values that a rank keeps by default.
ENERGY = 0.99


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
        """Return the Frobenius norm: that of the two triangles of QR, since the Qs rotate without stretching."""
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
        values: (k,), singular values of the stacked products, falling.
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
        captured = self.values.square().cumsum(0) / self.values.square().sum()
        # At energy 1 rounding decides in which of the last, empty directions the sum is reached.
        return min(int((captured < energy).sum()) + 1, self.rank())

    def first_rows(self, rank: int) -> Tensor:
        """Return the most important directions, (rank, D_in), padded with zeros.

        A stack of few thin matrices has fewer rows than a rank that others in the same layers need.
        """
        rows = self.rows[:rank]
        return F.pad(rows, (0, 0, 0, rank - rows.shape[0]))


def row_space(products: Sequence[Product]) -> Space:
    """Return the joint row space of products with equal D_in.

    B = Q R, and a Q changes neither singular values nor rows, so a small stack of R A replaces the dense one.
    """
    stack = torch.cat([triangle(p.b) @ p.a for p in products])
    _, values, rows = torch.linalg.svd(stack, full_matrices=False)
    return Space(values, rows)


@dataclass(frozen=True)
class RankSelection:
    """The choice of the ranks of the new matrices.

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
            raise UserError(f"found energy {self.energy:g}; need a fraction above 0 and at most 1; change --energy")

    def keeps(self, rank: int) -> bool:
        """Whether matrices of this rank that already agree may stay as they are."""
        return rank == self.rank if self.rank is not None else self.energy is None

    def choose(self, spaces: Sequence[Space], where: str) -> int:
        """Return the rank of matrices whose sites have these joint spaces.

        Args:
            spaces: of all matrices that must have one rank.
            where: their sites, for the message.

        Raises:
            UserError: the given rank is above that of all of them.
        """
        if self.rank is None:
            return max(space.rank_for(self.energy or ENERGY) for space in spaces)
        most = max(space.rank() for space in spaces)
        if most and self.rank > most:
            raise UserError(
                f"found rank {self.rank}; the changes of {where} have rank {most} together, and more would be empty; "
                f"choose --rank {most} or less, or auto"
            )
        return self.rank


@dataclass(frozen=True)
class Target:
    """The target of one product B A: what the sites that use this A and this B would have it be.

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
    def t(self) -> Target:
        """The same problem transposed: A and B have changed places."""
        return Target(self.b, self.a, self.weight, self.mean.t)

    @property
    def weighted(self) -> Product:
        """The mean with the root of the weight, as it enters the sum of squares."""
        return self.mean.scaled(self.weight**0.5)


def make_targets(sites: Iterable[tuple[str, str, float, Product]]) -> list[Target]:
    """Join sites that use the same matrices.

    Args:
        sites: name of the A, name of the B, weight, product.
    """
    groups: dict[tuple[str, str], list[tuple[float, Product]]] = defaultdict(list)
    for a, b, weight, product in sites:
        groups[a, b].append((weight, product))
    targets = []
    for (a, b), members in groups.items():
        whole = sum(weight for weight, _ in members)
        mean = total([product.scaled(weight / whole if whole else 0.0) for weight, product in members])
        targets.append(Target(a, b, whole, mean))
    return targets


def _by(targets: Sequence[Target], name: Callable[[Target], str]) -> dict[str, list[Target]]:
    groups: dict[str, list[Target]] = defaultdict(list)
    for target in targets:
        groups[name(target)].append(target)
    return groups


def spaces_of(targets: Sequence[Target]) -> dict[str, Space]:
    """Return the joint spaces that decide how large a rank is worth having: matrix name -> row space.

    It is the one B's (of the transposed products) if the targets have one B and several As, else that of each A.
    """
    by_a, by_b = _by(targets, lambda target: target.a), _by(targets, lambda target: target.b)
    if len(by_b) == 1 and len(by_a) > 1:
        return {targets[0].b: row_space([target.t.weighted for target in targets])}
    return {name: row_space([target.weighted for target in users]) for name, users in by_a.items()}


def fit(targets: Sequence[Target], spaces: dict[str, Space], rank: int) -> dict[str, Tensor]:
    """Return the best matrices for connected targets: name -> A, (rank, D_in), or B, (D_out, rank).

    Args:
        targets: all that share a matrix, directly or through others.
        spaces: what `spaces_of` returned for them.
        rank: of every matrix.
    """
    if len({target.a for target in targets}) == 1:
        return _fit_one_a(targets, spaces[targets[0].a], rank)
    if len({target.b for target in targets}) == 1:
        transposed = _fit_one_a([target.t for target in targets], spaces[targets[0].b], rank)
        return {name: matrix.T for name, matrix in transposed.items()}
    return alternate(targets, {name: space.first_rows(rank) for name, space in spaces.items()})


def _fit_one_a(targets: Sequence[Target], space: Space, rank: int) -> dict[str, Tensor]:
    """Solve the case of one A exactly: the first right singular vectors, and each product's part in them."""
    a = space.first_rows(rank)
    return {targets[0].a: a, **{target.b: target.mean.b @ (target.mean.a @ a.T) for target in targets}}


def alternate(targets: Sequence[Target], start: dict[str, Tensor], sweeps: int = MAX_SWEEPS) -> dict[str, Tensor]:
    """Improve A and B in turn, each time by least squares with the other fixed; the error never grows.

    Args:
        targets: with any pattern of sharing.
        start: name of every A -> (rank, D_in).
        sweeps: at most so many.
    """
    a, transposed = dict(start), [target.t for target in targets]
    whole = sum(target.weighted.norm() ** 2 for target in targets)
    before = 0.0
    for _ in range(sweeps):
        b, captured = _solve(targets, a)
        if captured - before <= TOLERANCE * whole:
            return {**a, **b}
        before = captured
        solved, _ = _solve(transposed, {name: matrix.T for name, matrix in b.items()})
        a = {name: matrix.T for name, matrix in solved.items()}
    logger.warning("the shared matrices were still improving after %d rounds; the error could be a little less", sweeps)
    return {**a, **_solve(targets, a)[0]}


def _solve(targets: Sequence[Target], a: dict[str, Tensor]) -> tuple[dict[str, Tensor], float]:
    """Return the best Bs for given As, and how much of the sum of squares the fit captures."""
    best, captured = {}, 0.0
    for name, users in _by(targets, lambda target: target.b).items():
        gram = torch.stack([user.weight * a[user.a] @ a[user.a].T for user in users]).sum(0)
        pull = torch.stack([user.weight * user.mean.b @ (user.mean.a @ a[user.a].T) for user in users]).sum(0)
        # Directions that no site uses have no part in the answer.
        best[name] = pull @ torch.linalg.pinv(gram, hermitian=True, rtol=1e-13)
        captured += float((best[name] * pull).sum())
    return best, captured
