"""The start of a run (are the As of all layers equal, are they trained), and the similarity of the As at its end."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from sharelora.convert.adapter_file import load_tensors, read_adapter
from sharelora.plan.plan import SharingPlan
from sharelora.support.files import write_bytes

FILE = "start.safetensors"


@dataclass(frozen=True)
class Start:
    """Prepare the model of a run, and save A as it starts.

    Attributes:
        folder: where `start.safetensors` is written: every A by its name.
        same: give A of every layer the numbers of the first one's, for each kind of module.
        frozen: leave A as it starts.
        dropout: probability of every dropout in the encoder; None leaves them as they are.
    """

    folder: str
    same: bool = False
    frozen: bool = False
    dropout: float | None = None

    def __call__(self, model: Any) -> None:
        """Change a PEFT model with an adapter of this project in place."""
        for module in model.modules():
            if self.dropout is not None and isinstance(module, nn.Dropout):
                module.p = self.dropout
        tuner = model.base_model
        bank, plan = tuner.bank("default"), tuner.plans["default"]
        by_kind: dict[str, list[str]] = defaultdict(list)
        for entry in plan.entries:
            by_kind[entry.site.kind].append(entry.a)
        with torch.no_grad():
            for first, *others in by_kind.values() if self.same else ():
                for name in others:
                    bank[name].copy_(bank[first])
        names = sorted({entry.a for entry in plan.entries})
        for name in names:
            bank[name].requires_grad_(not self.frozen)
        write_bytes(Path(self.folder) / FILE, save({name: bank[name].detach().clone() for name in names}))


def cosine(one: Tensor, other: Tensor) -> float:
    """Return the cosine of two matrices, each taken as one long vector; nan if one is zero."""
    lengths = one.norm() * other.norm()
    return float((one * other).sum() / lengths) if lengths > 0 else math.nan


def angle(one: Tensor, other: Tensor) -> float:
    """Return the mean principal angle between two row spaces in degrees: 0 if they are equal, 90 if orthogonal.

    Args:
        one: (r, D_in), of rank r.
        other: the same.
    """
    bases = [torch.linalg.qr(matrix.double().T).Q for matrix in (one, other)]
    cosines = torch.linalg.svdvals(bases[0].T @ bases[1]).clamp(max=1)
    return float(torch.rad2deg(cosines.acos()).mean())


@dataclass(frozen=True)
class Similarity:
    """Means over pairs of layers and over kinds of modules.

    Attributes:
        start: cosine of the As before training.
        end: cosine of the As after it.
        change: cosine of what training added to them; nan if nothing was added.
        angle: mean principal angle between the row spaces of the As after training, in degrees.
        moved: norm of what was added over the norm of the start, mean over layers.
    """

    start: float
    end: float
    change: float
    angle: float
    moved: float


def _of_layers(plan: SharingPlan, matrices: Mapping[str, Tensor]) -> list[list[Tensor]]:
    """Return for each kind of module the A of every layer."""
    kinds: dict[str, list[Tensor]] = {}
    for entry in plan.entries:
        kinds.setdefault(entry.site.kind, []).append(matrices[entry.a].float())
    return list(kinds.values())


def _mean(kinds: list[list[Tensor]], measure: Callable[[Tensor, Tensor], float]) -> float:
    return statistics.fmean(measure(a, b) for layers in kinds for a, b in combinations(layers, 2))


def similarity(folder: Path) -> Similarity:
    """Measure the adapter of a run that was prepared by `Start`.

    Raises:
        UserError: the adapter or the start is missing or damaged.
    """
    adapter = read_adapter(folder)
    start = _of_layers(adapter.plan, load_tensors(folder / FILE))
    end = _of_layers(adapter.plan, adapter.matrices)
    change = [[b - a for a, b in zip(*kind, strict=True)] for kind in zip(start, end, strict=True)]
    moved = [float(d.norm() / a.norm()) for kind in zip(start, change, strict=True) for a, d in zip(*kind, strict=True)]
    return Similarity(
        _mean(start, cosine), _mean(end, cosine), _mean(change, cosine), _mean(end, angle), statistics.fmean(moved)
    )


def chance_angle(rank: int, width: int, pairs: int = 50) -> float:
    """Return the mean principal angle between row spaces of random matrices, (rank, width), in degrees."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(2, pairs, rank, width, generator=generator)
    return statistics.fmean(angle(one, other) for one, other in zip(*draws, strict=True))
