"""Singular values of adapters layer by layer, and how many of them count."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sharelora.checkpoint.factors import triangle
from sharelora.checkpoint.sources import read_source
from sharelora.errors import UserError
from sharelora.figures.drawn import Drawn
from sharelora.figures.spectra import effective_rank
from sharelora.pictures import new_figure
from sharelora.sites import locate

NOTE = "Effective rank: the exponential of the entropy of the singular values of scaling * B A, as parts of their sum."
# Below this part of a module's largest value the colours end.
DARKEST = 1e-3


@dataclass(frozen=True)
class Spectra:
    """One adapter: kind of module -> layer -> singular values, falling."""

    name: str
    kinds: Mapping[str, Mapping[int, list[float]]]


def read_spectra(folder: str | Path, name: str) -> Spectra:
    """Read an adapter of this project or a plain PEFT LoRA; no base model is needed.

    Raises:
        UserError: no such adapter, or none of its modules lies in a layer.
    """
    source = read_source(folder, own=True)
    kinds: dict[str, dict[int, list[float]]] = defaultdict(dict)
    for path, (a, b) in source.pairs.items():
        _, layer, kind = locate(path)
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
            picture = _values(grid[row][column], one.kinds[kind])
            grid[row][column].set_title(f"{one.name}: {kind.rpartition('.')[2]}", fontsize=9)
        _ranks(grid[-1][column], {one.name: one.kinds[kind] for one in adapters})
    figure.colorbar(picture, ax=grid[:-1].ravel().tolist(), label="part of the layer's largest", shrink=0.7)
    grid[-1][0].set_ylabel("effective rank", fontsize=8)
    grid[-1][0].legend(fontsize=7)
    header = ("adapter", "module", "layers", "rank", "effective rank", "least", "most")
    return Drawn(figure, [header, *(_row(one, kind) for kind in kinds for one in adapters)], NOTE)


def _values(axes: Any, layers: Mapping[int, list[float]]) -> Any:
    from matplotlib.colors import LogNorm

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


def _ranks(axes: Any, adapters: Mapping[str, Mapping[int, list[float]]]) -> None:
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
