"""Measure how similar the layers of a model are, and group those that share; nothing here trains.

May import: reporting, models, data and support. Begin with `similarity`, the result of a measurement; `measure` makes
it, of `texts` or `images`. Then `grouping`, the algorithms, and `settings`, how a run chooses among them. `show` prints
and draws.
"""

from sharelora.layer_groups.grouping import (
    EXPANSIONS,
    NONE,
    Grouping,
    Groups,
    Matrix,
    expanded_rank,
    fewest,
    greedy,
    most_similar,
    strict,
)
from sharelora.layer_groups.settings import METHODS, GroupingSettings
from sharelora.layer_groups.similarity import FILE, MEASURES, Similarity, read_similarity

__all__ = [
    "EXPANSIONS",
    "FILE",
    "MEASURES",
    "METHODS",
    "NONE",
    "Grouping",
    "GroupingSettings",
    "Groups",
    "Matrix",
    "Similarity",
    "expanded_rank",
    "fewest",
    "greedy",
    "most_similar",
    "read_similarity",
    "strict",
]
