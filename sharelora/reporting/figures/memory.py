"""Memory of training over the rank, for LoRA and the ways to share: from the estimate, no weights are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from sharelora.memory.estimator import Estimate
from sharelora.plan.plan import SharingPlan
from sharelora.plan.rule import SharingRule
from sharelora.plan.site import Site
from sharelora.reporting.pictures import Drawn, new_figure

METHODS = {"none": "LoRA", "a": "ShareA", "b": "ShareB", "ab": "ShareAB"}
TRAINED = ("adapter", "gradients", "optimizer")
NOTE = "Estimated as `sharelora estimate` does. Trained: adapter, gradients and optimizer; only these depend on sharing"


def titles(bits: int) -> dict[str, str]:
    """Return the names of the methods; on a quantised base the papers put a Q before them."""
    return {share: ("Q" if bits in (4, 8) else "") + name for share, name in METHODS.items()}


def _gigabytes(need: Estimate) -> tuple[float, float]:
    """Return the whole, and what is trained."""
    return need.total / 1e9, sum(item.bytes for item in need.items if item.name in TRAINED) / 1e9


def draw_memory(
    model: nn.Module,
    sites: Sequence[Site],
    ranks: Sequence[int],
    bits: int,
    need_of: Callable[[nn.Module, SharingPlan], Estimate],
) -> Drawn:
    """Draw memory over rank.

    Args:
        model: on the meta device.
        sites: its adapted sites.
        ranks: on the horizontal axis.
        bits: of the base's weights, for the names of the methods.
        need_of: returns the estimate for a plan, with all other settings fixed.
    """
    lines = {
        name: [_gigabytes(need_of(model, SharingPlan.build(sites, SharingRule(share), rank))) for rank in ranks]
        for share, name in titles(bits).items()
    }
    figure = new_figure(8.0, 3.4)
    axes = figure.subplots(1, 2)
    for column, (panel, title) in enumerate(zip(axes, ("in all", "trained parts"), strict=True)):
        _panel(panel, title, ranks, {name: [point[column] for point in points] for name, points in lines.items()})
    axes[1].set_yscale("log")
    header = ("rank", *(f"{name} {what}" for name in lines for what in ("GB", "trained GB")))
    rows = [(str(r), *(f"{n:.2f}" for points in lines.values() for n in points[i])) for i, r in enumerate(ranks)]
    return Drawn(figure, [header, *rows], NOTE)


def _panel(axes: Any, title: str, ranks: Sequence[int], values: dict[str, list[float]]) -> None:
    for (name, gigabytes), marker in zip(values.items(), "os^v", strict=True):
        axes.plot(ranks, gigabytes, marker=marker, markersize=4, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.minorticks_off()
    axes.set(title=title, xlabel="rank", ylabel="memory (GB)")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
