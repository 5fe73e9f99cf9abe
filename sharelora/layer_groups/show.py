"""Groups and similarities for people: a table of ways to group, and a heat map."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sharelora.layer_groups.grouping import EXPANSIONS, NONE, Grouping, Groups, expanded_rank
from sharelora.layer_groups.similarity import COSINE, Similarity
from sharelora.reporting.pictures import new_figure, save_figure
from sharelora.support.text import columns

RANK = 8  # of LoRA, for the ranks that are shown


def render(groupings: Mapping[str, Grouping]) -> str:
    """Return a table with a line per way of grouping.

    Args:
        groupings: the groups by a name for them.
    """
    expansions = [name for name in EXPANSIONS if name != NONE]
    ranks = [f"r {RANK} by {name}" for name in expansions]
    rows = [("grouping", "distinct layers", "saved", "least similar", *ranks, "groups")]
    for name, grouping in groupings.items():
        groups = [_group(*group) for group in zip(grouping.groups, grouping.least, strict=True)]
        rows.append(
            (
                name,
                f"{grouping.distinct} of {grouping.layers}",
                f"{grouping.saving:.1%}",
                f"{min(grouping.least):.4f}" if grouping.least else "-",
                *(str(expanded_rank(grouping, RANK, expansion)) for expansion in expansions),
                " ".join(groups) or "none",
            )
        )
    return "\n".join(columns(rows, left=len(rows[0])))


def _group(layers: tuple[int, ...], least: float) -> str:
    """Write `23-27 (0.871)`: layers, and the similarity of the least similar pair."""
    neighbours = len(layers) > 2 and layers[-1] - layers[0] == len(layers) - 1
    names = f"{layers[0]}-{layers[-1]}" if neighbours else ",".join(map(str, layers))
    return f"{names} ({least:.3f})"


def draw(similarity: Similarity, stem: Path, measure: str = COSINE, groups: Groups = ()) -> list[Path]:
    """Draw all pairs of layers as a heat map, groups framed, and next to it how much each layer changes its input.

    Args:
        similarity: to draw.
        stem: path of the files, without the ending.
        measure: `cosine` or `angular`.
        groups: layers that share; those that are neighbours get a frame.

    Returns:
        The files: SVG and PNG.
    """
    # After `new_figure`, which asks for the optional package if it is missing.
    figure = new_figure(9.5, 4.6)
    from matplotlib.patches import Rectangle

    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    image = left.imshow(similarity.matrix(measure), cmap="viridis", origin="lower")
    figure.colorbar(image, ax=left, label=f"{measure} similarity")
    left.set(xlabel="layer", ylabel="layer", title=f"{similarity.model}: outputs of each two layers")
    for group in groups:
        # Layers that are not neighbours have no common square in a matrix ordered by layer.
        if group[-1] - group[0] == len(group) - 1:
            corner, side = (group[0] - 0.5, group[0] - 0.5), len(group)
            left.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="white", linewidth=1.5))
    right.plot(similarity.through[measure], "o-", markersize=3)
    right.set(xlabel="layer", ylabel=f"{measure} similarity", title="a layer's input and its output")
    right.grid(alpha=0.3)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    left.yaxis.get_major_locator().set_params(integer=True)
    return save_figure(figure, stem)
