"""The best groups of neighbouring layers, by dynamic programming over where groups end.

What counts is the least similar pair of layers that share: of all ways to cut L layers into n runs of neighbours, the
best is that whose least similar pair inside a run is most similar. The table `best[n][end]` holds that value for the
first `end` layers; it follows from the tables for n - 1, since a run and what lies before it do not influence each
other. It takes L^3 steps: a tenth of a second for 80 layers.
"""

from __future__ import annotations

from math import inf

from sharelora.grouping.groups import Grouping, Matrix


def fewest(similar: Matrix, threshold: float) -> Grouping:
    """Return the fewest runs of neighbouring layers in which every pair reaches the threshold.

    Of several ways the one whose least similar pair is most similar.

    Args:
        similar: (L, L).
        threshold: what the similarity of every pair of a group reaches.
    """
    best, cuts = _tables(similar)
    layers = len(similar)
    # With a run for every layer there is no pair, so the last count always does.
    count = next(n for n in range(1, layers + 1) if best[n][layers] >= threshold)
    return Grouping.of(similar, _runs(cuts, count))


def most_similar(similar: Matrix, distinct: int) -> Grouping:
    """Return that many runs of neighbouring layers, the least similar pair inside a run being as similar as possible.

    Args:
        similar: (L, L).
        distinct: n, from 1 to L.
    """
    return Grouping.of(similar, _runs(_tables(similar)[1], distinct))


def _tables(similar: Matrix) -> tuple[list[list[float]], list[list[int]]]:
    """Return for n runs of the first `end` layers the best least similarity, and where the last run begins."""
    layers, inside = len(similar), _inside(similar)
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


def _inside(similar: Matrix) -> list[list[float]]:
    """Return the similarity of the least similar pair among the layers from one to another; infinite for one layer."""
    layers = len(similar)
    least = [[inf] * layers for _ in range(layers)]
    for first in reversed(range(layers)):
        for last in range(first + 1, layers):
            least[first][last] = min(least[first + 1][last], least[first][last - 1], similar[first][last])
    return least


def _runs(cuts: list[list[int]], count: int) -> list[range]:
    runs, end = [], len(cuts) - 1
    for left in range(count, 0, -1):
        begin = cuts[left][end]
        runs.append(range(begin, end))
        end = begin
    return runs
