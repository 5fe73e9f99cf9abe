"""The similarity of layers as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sharelora.grouping.groups import Groups
from sharelora.pictures import new_figure, save_figure
from sharelora.similarity.result import COSINE, Similarity


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
