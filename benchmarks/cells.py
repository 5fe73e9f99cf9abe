"""Which configurations a run measures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from benchmarks.variants import Adapter

# What --sweep varies, one at a time around the base configuration. Growth along each should be linear.
AXES: dict[str, tuple[int, ...]] = {
    "layers": (2, 4, 8),
    "rank": (8, 16, 32, 64),
    "tokens": (256, 512, 1024, 2048),
}


@dataclass(frozen=True)
class Cell:
    """One configuration: a stack of decoder layers with all seven linear maps adapted, and its input."""

    hidden: int = 1024
    layers: int = 4
    rank: int = 16
    tokens: int = 1024
    dtype: str = "bf16"
    dropout: float = 0.0

    def adapter(self) -> Adapter:
        """Return what its variants have in common."""
        return Adapter(self.rank, self.dropout)

    def title(self) -> str:
        """Describe it for a table."""
        return (
            f"{self.dtype}, dropout {self.dropout:g}: hidden {self.hidden}, {self.layers} layers, rank {self.rank}, "
            f"{self.tokens} tokens"
        )

    def data(self) -> dict[str, Any]:
        """Return the fields as JSON data."""
        return asdict(self)


def base_cells(cell: Cell, dtypes: Sequence[str], dropouts: Sequence[float]) -> list[Cell]:
    """Return a configuration in every precision and with every dropout."""
    return [Cell(**{**cell.data(), "dtype": dtype, "dropout": dropout}) for dtype, dropout in product(dtypes, dropouts)]


def swept_cells(cells: Iterable[Cell], axes: dict[str, tuple[int, ...]] = AXES) -> list[Cell]:
    """Return what varies one number of each configuration at a time; the configurations themselves are left out."""
    bases = list(cells)
    found = [
        Cell(**{**cell.data(), axis: value}) for cell in bases for axis, values in axes.items() for value in values
    ]
    return [cell for cell in dict.fromkeys(found) if cell not in bases]
