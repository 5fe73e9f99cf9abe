"""The larger rank that groups leave room for.

The second ShareLoRA paper prints floor(L / (L - sum|S_i| + |S|) * r), with L layers in |S| groups of |S_i| layers: the
rank that takes what LoRA takes, L - sum|S_i| + |S| being the layers that remain distinct. The ranks of its tables are
smaller and follow, all four of them, from floor(L / (L - |S|) * r).
"""

from __future__ import annotations

from sharelora.errors import UserError
from sharelora.grouping.groups import Grouping

NONE, TEXT, TABLES = EXPANSIONS = ("none", "text", "tables")


def expanded_rank(grouping: Grouping, rank: int, expansion: str = NONE) -> int:
    """Return the rank to use with groups.

    Args:
        grouping: the groups.
        rank: of LoRA without groups.
        expansion: `text` for the formula that is printed, `tables` for the one that gives the published ranks, `none`
            for the rank as it is.

    Raises:
        UserError: an unknown expansion.
    """
    if expansion not in EXPANSIONS:
        raise UserError(f"found expand_rank {expansion!r}; need one of {', '.join(EXPANSIONS)}; change --expand_rank")
    if expansion == NONE:
        return rank
    left = grouping.distinct if expansion == TEXT else grouping.layers - len(grouping.groups)
    return grouping.layers * rank // left
