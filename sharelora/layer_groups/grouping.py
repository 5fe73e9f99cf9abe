"""Groups of similar layers: how they are found, and the larger rank that they leave room for.

`greedy` is Algorithm 1 of the second ShareLoRA paper. It compares a layer only with the first of its group, while the
paper's text asks that every pair of a group reaches the threshold: `strict` does that, and `fewest` makes the fewest
groups of neighbours that do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf

from sharelora.support.errors import UserError

Matrix = Sequence[Sequence[float]]  # (L, L), symmetric: how similar each layer is to each
Groups = tuple[tuple[int, ...], ...]
# How the rank grows with groups; see `expanded_rank`.
NONE, TEXT, TABLES = EXPANSIONS = ("none", "text", "tables")


@dataclass(frozen=True)
class Grouping:
    """Which layers use the same matrices.

    Attributes:
        layers: L, the number of layers of the model.
        groups: each with at least two layers, counted from 0; the other layers keep their own matrices.
        least: for each group the similarity of its least similar pair.
    """

    layers: int
    groups: Groups
    least: tuple[float, ...]

    @classmethod
    def of(cls, similar: Matrix, members: Iterable[Sequence[int]]) -> Grouping:
        """Make groups of layers, with the similarity of the least similar pair of each.

        Args:
            similar: (L, L).
            members: layers of each group; a single layer is not a group and is left out.
        """
        groups = tuple(sorted(tuple(sorted(layers)) for layers in members if len(layers) > 1))
        return cls(len(similar), groups, tuple(least_similar(similar, group) for group in groups))

    @property
    def distinct(self) -> int:
        """The number of layers with different matrices: each group counts as one."""
        return self.layers - sum(len(group) - 1 for group in self.groups)

    @property
    def saving(self) -> float:
        """The fraction of LoRA's parameters that sharing A and B saves at the same rank, if all layers are alike."""
        return 1 - self.distinct / self.layers

    def text(self) -> str:
        """Return the groups as `--share_groups` takes them; empty without groups."""
        # A single group has no semicolon, which `--share_groups` reads as one group too.
        return ";".join(",".join(map(str, group)) for group in self.groups)


def least_similar(similar: Matrix, group: Sequence[int]) -> float:
    """Return the similarity of the least similar pair of at least two layers."""
    return min(similar[one][other] for one, other in combinations(group, 2))


def most_similar_pair(similar: Matrix) -> tuple[int, int]:
    """Return the two layers, of at least two, that are most similar."""
    return max(combinations(range(len(similar)), 2), key=lambda pair: similar[pair[0]][pair[1]])


def greedy(similar: Matrix, threshold: float) -> Grouping:
    """Group layers by Algorithm 1 as it is printed.

    All pairs (i, j), i < j, that reach the threshold are taken in order: i opens a group unless it has joined one, and
    j joins it unless it has joined another.

    Args:
        similar: (L, L).
        threshold: what the similarity to the group's first layer has to reach.
    """
    return _opened(similar, threshold, lambda group, layer: True)


def strict(similar: Matrix, threshold: float) -> Grouping:
    """Group layers as `greedy`, but a layer joins only if it reaches the threshold with every layer of the group.

    Args:
        similar: (L, L).
        threshold: what the similarity of every pair of a group reaches.
    """
    return _opened(similar, threshold, lambda group, layer: all(similar[one][layer] >= threshold for one in group))


def _opened(similar: Matrix, threshold: float, joins: Callable[[list[int], int], bool]) -> Grouping:
    groups: dict[int, list[int]] = {}
    visited: set[int] = set()
    for first, layer in combinations(range(len(similar)), 2):
        if similar[first][layer] < threshold or {first, layer} & visited:
            continue
        group = groups.setdefault(first, [first])
        if joins(group, layer):
            group.append(layer)
            visited.add(layer)
    return Grouping.of(similar, groups.values())


def fewest(similar: Matrix, threshold: float) -> Grouping:
    """Return the fewest runs of neighbouring layers in which every pair reaches the threshold.

    Of several such ways, the one whose least similar pair is most similar.

    Args:
        similar: (L, L).
        threshold: what the similarity of every pair of a group reaches.
    """
    best, cuts = _tables(similar)
    layers = len(similar)
    # One run per layer has no pairs, so the last count always reaches it.
    count = next(n for n in range(1, layers + 1) if best[n][layers] >= threshold)
    return Grouping.of(similar, _runs(cuts, count))


def most_similar(similar: Matrix, distinct: int) -> Grouping:
    """Return a number of runs of neighbouring layers whose least similar pair within a run is as similar as possible.

    Args:
        similar: (L, L).
        distinct: n, from 1 to L.
    """
    return Grouping.of(similar, _runs(_tables(similar)[1], distinct))


def _tables(similar: Matrix) -> tuple[list[list[float]], list[list[int]]]:
    """Cut layers into runs of neighbours by dynamic programming over where the runs end.

    The best way to cut the first `end` layers into n runs follows from the best ways to cut fewer layers into n - 1
    runs, since the last run and the layers before it do not influence each other. L^3 steps: 0.1 s for 80 layers.

    Returns:
        `best[n][end]`, the similarity of the least similar pair within a run, and `cuts[n][end]`, where the last run
        begins.
    """
    layers = len(similar)
    # Of the layers from `first` to `last` the similarity of the least similar pair; infinite for one layer.
    inside = [[inf] * layers for _ in range(layers)]
    for first in reversed(range(layers)):
        for last in range(first + 1, layers):
            inside[first][last] = min(inside[first + 1][last], inside[first][last - 1], similar[first][last])
    best = [[-inf] * (layers + 1) for _ in range(layers + 1)]
    cuts = [[0] * (layers + 1) for _ in range(layers + 1)]
    best[0][0] = inf
    for count in range(1, layers + 1):
        for end in range(count, layers + 1):
            begins = range(count - 1, end)
            values = [min(best[count - 1][begin], inside[begin][end - 1]) for begin in begins]
            best[count][end] = max(values)
            cuts[count][end] = begins[values.index(best[count][end])]
    return best, cuts


def _runs(cuts: list[list[int]], count: int) -> list[range]:
    """Read the best way to make that many runs of all layers, last to first."""
    runs, end = [], len(cuts) - 1
    for left in range(count, 0, -1):
        begin = cuts[left][end]
        runs.append(range(begin, end))
        end = begin
    return runs


def expanded_rank(grouping: Grouping, rank: int, expansion: str = NONE) -> int:
    """Return the rank to use with groups, which leave room for a larger one.

    The second ShareLoRA paper prints floor(L / (L - sum|S_i| + |S|) * r), with L layers in |S| groups of |S_i| layers:
    the rank that needs as many parameters as LoRA, L - sum|S_i| + |S| being the layers with different matrices. The
    ranks of its tables are smaller and follow, all four of them, from floor(L / (L - |S|) * r).

    Args:
        grouping: the groups.
        rank: of LoRA without groups.
        expansion: `text` for the printed formula, `tables` for the one that gives the published ranks, `none` for the
            rank as it is.

    Raises:
        UserError: an unknown expansion.
    """
    if expansion not in EXPANSIONS:
        raise UserError(f"found expand_rank {expansion!r}; need one of {', '.join(EXPANSIONS)}; change --expand_rank")
    if expansion == NONE:
        return rank
    left = grouping.distinct if expansion == TEXT else grouping.layers - len(grouping.groups)
    return grouping.layers * rank // left
