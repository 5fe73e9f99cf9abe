"""How large the matrices of a compressed adapter may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sharelora.checkpoint.factors import Space
from sharelora.errors import UserError

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
