"""Figures of adapters: singular values layer by layer, effective ranks, and the joint spectra of a compression."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sharelora.convert.fit import triangle
from sharelora.convert.sources import read_lora
from sharelora.plan.layers import Layers
from sharelora.reporting.pictures import Drawn, new_figure, save_figure
from sharelora.support.errors import UserError

NOTE = "Effective rank: the exponential of the entropy of the singular values of scaling * B A, as parts of their sum."
# Below this part of a module's largest value the colours end.
DARKEST = 1e-3
# Panels in a row.
COLUMNS = 4


def effective_rank(values: Sequence[float]) -> float:
    """Return the exponential of the entropy of singular values taken as parts of their sum (Roy and Vetterli, 2007).

    It is k for k equal values, and 0 if all are zero.
    """
    whole = sum(values)
    parts = [value / whole for value in values if value > 0] if whole else []
    return math.exp(-sum(part * math.log(part) for part in parts)) if parts else 0.0


@dataclass(frozen=True)
class Spectra:
    """One adapter: kind of module -> layer -> singular values, falling."""

    name: str
    kinds: Mapping[str, Mapping[int, list[float]]]


def read_spectra(folder: str | Path, name: str) -> Spectra:
    """Read an adapter of this project or a plain PEFT LoRA; no base model is needed.

    Raises:
        UserError: no such adapter, or none of its modules is in a layer.
    """
    source = read_lora(folder, accept_shared=True)
    kinds: dict[str, dict[int, list[float]]] = defaultdict(dict)
    layers = Layers(source.pairs)
    for path, (a, b) in source.pairs.items():
        _, layer, kind = layers.position(path)
        if layer is not None:
            values = torch.linalg.svdvals(triangle(b.double()) @ triangle(a.double().T).T)
            kinds[kind][layer] = (abs(source.scalings[path]) * values).tolist()
    if not kinds:
        raise UserError(f"{folder} adapts no module of a layer; need an adapter of a transformer's layers")
    return Spectra(name, {kind: dict(sorted(layers.items())) for kind, layers in kinds.items()})


def draw_adapters(adapters: Sequence[Spectra]) -> Drawn:
    """Draw a column per kind of module; a row per adapter with its singular values, and a last one of effective ranks.

    Raises:
        UserError: no kind of module that all adapters have.
    """
    kinds = [kind for kind in adapters[0].kinds if all(kind in one.kinds for one in adapters)]
    if not kinds:
        raise UserError("the adapters have no kind of module in common; give adapters of one base and target modules")
    figure = new_figure(1.2 + 2.4 * len(kinds), 1.0 + 2.0 * (len(adapters) + 1))
    grid = figure.subplots(len(adapters) + 1, len(kinds), squeeze=False)
    for column, kind in enumerate(kinds):
        for row, one in enumerate(adapters):
            picture = _draw_values(grid[row][column], one.kinds[kind])
            grid[row][column].set_title(f"{one.name}: {kind.rpartition('.')[2]}", fontsize=9)
        _draw_ranks(grid[-1][column], {one.name: one.kinds[kind] for one in adapters})
    figure.colorbar(picture, ax=grid[:-1].ravel().tolist(), label="part of the layer's largest", shrink=0.7)
    grid[-1][0].set_ylabel("effective rank", fontsize=8)
    grid[-1][0].legend(fontsize=7)
    header = ("adapter", "module", "layers", "rank", "effective rank", "least", "most")
    return Drawn(figure, [header, *(_row(one, kind) for kind in kinds for one in adapters)], NOTE)


def _draw_values(axes: Any, layers: Mapping[int, list[float]]) -> Any:
    from matplotlib.colors import LogNorm  # optional package

    longest = max(len(values) for values in layers.values())
    parts = [[value / (values[0] or 1.0) for value in values] for values in layers.values()]
    picture = [[max(part, DARKEST) for part in row] + [DARKEST] * (longest - len(row)) for row in parts]
    axes.set_yticks(range(len(layers)), [str(layer) for layer in layers], fontsize=6)
    axes.set_ylabel("layer", fontsize=8)
    axes.set_xlabel("singular value", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    return axes.imshow(
        picture, aspect="auto", norm=LogNorm(DARKEST, 1.0), extent=(0.5, longest + 0.5, len(layers) - 0.5, -0.5)
    )


def _draw_ranks(axes: Any, adapters: Mapping[str, Mapping[int, list[float]]]) -> None:
    for name, layers in adapters.items():
        axes.plot(list(layers), [effective_rank(values) for values in layers.values()], ".-", label=name)
    axes.set_xlabel("layer", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)


def _row(one: Spectra, kind: str) -> tuple[str, ...]:
    layers = one.kinds[kind].values()
    ranks = [effective_rank(values) for values in layers]
    numbers = (statistics.fmean(ranks), min(ranks), max(ranks))
    return (one.name, kind, str(len(ranks)), str(max(map(len, layers))), *(f"{number:.2f}" for number in numbers))


def panels(count: int, width: float = 3.2, height: float = 2.6) -> tuple[Any, list[Any]]:
    """Return a figure and that many axes in rows of four."""
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    figure = new_figure(width * columns, height * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def short_name(matrix: str) -> str:
    """Return a matrix's name for a title: side, kind of module and layers."""
    side, *kind, layers, _ = matrix.removeprefix("lora_").split("/")
    return f"{side} of {'.'.join(kind[-1:])}{'' if layers == '*' else f', {layers}'}"


def draw_spectra(spectra: Mapping[str, Sequence[float]], ranks: Mapping[str, int], stem: Path) -> list[Path]:
    """Draw the singular values of joint changes, a panel per shared matrix, with the rank that was kept.

    Args:
        spectra: matrix name -> singular values, falling.
        ranks: matrix name -> its rank.
        stem: the path of the files without the ending.

    Returns:
        The files: SVG and PNG; none if there are no singular values.
    """
    nonzero = {name: values for name, values in spectra.items() if any(values)}
    if not nonzero:
        return []
    figure, axes = panels(len(nonzero))
    for panel, (name, values) in zip(axes, nonzero.items(), strict=True):
        _draw_joint(panel, values, ranks[name])
        panel.set_title(short_name(name), fontsize=9)
    figure.supxlabel("number of the singular value of all sites' scaling * B A together", fontsize=8)
    return save_figure(figure, stem)


def _draw_joint(axes: Any, values: Sequence[float], rank: int) -> None:
    # What rounding leaves of empty directions would stretch the axis.
    present = [value for value in values if value > 1e-6 * values[0]]
    energy = sum(value**2 for value in values[:rank]) / sum(value**2 for value in values)
    axes.semilogy(range(1, len(present) + 1), present, ".-", markersize=4)
    axes.axvline(rank + 0.5, color="C3", linewidth=1, label=f"rank {rank}: {energy:.1%} kept")
    axes.plot([], [], " ", label=f"effective rank {effective_rank(values):.1f}")
    axes.legend(fontsize=7)
    axes.tick_params(which="both", labelsize=7)
    axes.grid(alpha=0.3)
