"""Measure how similar the layers of a model are, and group those that share; nothing here trains.

May import: data, models and what is below them. Begin with `similarity` (what a measurement is), then `grouping`.
"""

from sharelora.layer_groups.choice import METHODS, GroupingChoice
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
from sharelora.layer_groups.similarity import FILE, MEASURES, Similarity, read_similarity

__all__ = [
    "EXPANSIONS",
    "FILE",
    "MEASURES",
    "METHODS",
    "NONE",
    "Grouping",
    "GroupingChoice",
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
