"""Groups of layers, and what they save."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

Matrix = Sequence[Sequence[float]]  # (L, L), symmetric: how similar each layer is to each
Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Grouping:
    """Layers that use the same matrices.

    Attributes:
        layers: L, the layers of the model.
        groups: each with at least two layers, counted from 0; the other layers keep their own matrices.
        least: for each group the similarity of its least similar pair.
    """

    layers: int
    groups: Groups
    least: tuple[float, ...]

    @classmethod
    def of(cls, similar: Matrix, members: Iterable[Sequence[int]]) -> Grouping:
        """Measure groups.

        Args:
            similar: (L, L).
            members: layers of each group; what has one layer is no group and is left out.
        """
        groups = tuple(sorted(tuple(sorted(layers)) for layers in members if len(layers) > 1))
        return cls(len(similar), groups, tuple(least_similar(similar, group) for group in groups))

    @property
    def distinct(self) -> int:
        """Layers that remain different from each other: each group counts as one."""
        return self.layers - sum(len(group) - 1 for group in self.groups)

    @property
    def saving(self) -> float:
        """The part of LoRA's parameters that sharing A and B saves at the same rank, if all layers have one shape."""
        return 1 - self.distinct / self.layers

    def text(self) -> str:
        """Return the groups as `--share_groups` takes them; empty without groups."""
        # A single group of layers one by one would have no semicolon, and that means one group as well.
        return ";".join(",".join(map(str, group)) for group in self.groups)


def least_similar(similar: Matrix, group: Sequence[int]) -> float:
    """Return the similarity of the least similar pair of at least two layers."""
    return min(similar[one][other] for one, other in combinations(group, 2))


def most_similar_pair(similar: Matrix) -> tuple[int, int]:
    """Return the two layers, of at least two, that are most similar."""
    return max(combinations(range(len(similar)), 2), key=lambda pair: similar[pair[0]][pair[1]])
