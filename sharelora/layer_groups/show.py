"""Groups as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharelora.layer_groups.grouping import EXPANSIONS, NONE, Grouping, Groups, expanded_rank
from sharelora.layer_groups.similarity import COSINE, Similarity
from sharelora.reporting.pictures import new_figure, save_figure

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


# The similarity of layers as a picture.


def draw(similarity: Similarity, stem: Path, measure: str = COSINE, groups: Groups = ()) -> list[Path]:
    """Draw all pairs of layers as a heat map, groups framed, and beside it what a layer changes.

    Args:
        similarity: what was measured.
        stem: the files are called so, with an ending each.
        measure: which one.
        groups: layers that share; those that are neighbours get a frame.

    Returns:
        The files: SVG and PNG.
    """
    figure = new_figure(9.5, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    image = left.imshow(similarity.matrix(measure), cmap="viridis", origin="lower")
    figure.colorbar(image, ax=left, label=f"{measure} similarity")
    left.set(xlabel="layer", ylabel="layer", title=f"{similarity.model}: outputs of each two layers")
    for group in groups:
        _frame(left, group)
    right.plot(similarity.through[measure], "o-", markersize=3)
    right.set(xlabel="layer", ylabel=f"{measure} similarity", title="a layer's input and its output")
    right.grid(alpha=0.3)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    left.yaxis.get_major_locator().set_params(integer=True)
    return save_figure(figure, stem)


def _frame(axes: Any, group: tuple[int, ...]) -> None:
    from matplotlib.patches import Rectangle

    # What lies apart has no frame of its own in a matrix ordered by layer.
    if group[-1] - group[0] == len(group) - 1:
        corner, side = (group[0] - 0.5, group[0] - 0.5), len(group)
        axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="white", linewidth=1.5))
