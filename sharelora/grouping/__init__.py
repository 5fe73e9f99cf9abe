"""Groups of similar layers, which use the same matrices: how they are found, and the rank that they leave room for."""

from sharelora.grouping.choice import METHODS, GroupingChoice
from sharelora.grouping.greedy import greedy, strict
from sharelora.grouping.groups import Grouping, Groups, Matrix
from sharelora.grouping.optimal import fewest, most_similar
from sharelora.grouping.ranks import EXPANSIONS, NONE, expanded_rank

__all__ = [
    "EXPANSIONS",
    "METHODS",
    "NONE",
    "Grouping",
    "GroupingChoice",
    "Groups",
    "Matrix",
    "expanded_rank",
    "fewest",
    "greedy",
    "most_similar",
    "strict",
]
