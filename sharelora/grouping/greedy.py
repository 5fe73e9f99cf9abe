"""The grouping of the second ShareLoRA paper, and a form that keeps the paper's own constraint.

Algorithm 1 compares a layer only with the first of its group, while the text asks that every pair of a group reaches
the threshold. `strict` does what the text asks.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

from sharelora.grouping.groups import Grouping, Matrix

Joins = Callable[[list[int], int], bool]


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


def _opened(similar: Matrix, threshold: float, joins: Joins) -> Grouping:
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
