"""Groups as text for people."""

from __future__ import annotations

from collections.abc import Mapping

from sharelora.grouping.groups import Grouping
from sharelora.grouping.ranks import EXPANSIONS, NONE, expanded_rank

RANK = 8  # of LoRA, for the ranks that are shown


def render(found: Mapping[str, Grouping]) -> str:
    """Return a table with a line per way of grouping.

    Args:
        found: the groups by a name for them.
    """
    ranks = [f"r {RANK} by {name}" for name in EXPANSIONS if name != NONE]
    rows = [("grouping", "distinct layers", "saved", "least similar", *ranks, "groups")]
    rows += [(name, *_cells(grouping)) for name, grouping in found.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _cells(grouping: Grouping) -> tuple[str, ...]:
    least = f"{min(grouping.least):.4f}" if grouping.least else "-"
    ranks = [str(expanded_rank(grouping, RANK, name)) for name in EXPANSIONS if name != NONE]
    shown = " ".join(_group(layers, value) for layers, value in zip(grouping.groups, grouping.least, strict=True))
    return (f"{grouping.distinct} of {grouping.layers}", f"{grouping.saving:.1%}", least, *ranks, shown or "none")


def _group(layers: tuple[int, ...], least: float) -> str:
    """Write `23-27 (0.871)`: layers, and the similarity of the least similar pair."""
    neighbours = len(layers) > 2 and layers[-1] - layers[0] == len(layers) - 1
    names = f"{layers[0]}-{layers[-1]}" if neighbours else ",".join(map(str, layers))
    return f"{names} ({least:.3f})"
