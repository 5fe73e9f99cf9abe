"""Means over texts of how similar the states of layers are."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from sharelora.similarity.result import ANGULAR, COSINE, MEASURES, Rows

# Digits of the results: beyond them the order of sums decides, and a saved file must give the groups that a fresh
# measurement gives.
_DIGITS = 6


class Means:
    """Adds up similarities batch by batch: memory for L x L numbers, however many texts there are.

    Vectors come in full precision; cosines are computed and added in double precision, since arccos is steep near 1.
    """

    def __init__(self) -> None:
        self.texts = 0
        self.between: dict[str, Tensor] = {}
        self.through: dict[str, Tensor] = {}

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Add a batch.

        Args:
            inputs: (L, B, D), what went into the layers.
            outputs: (L, B, D), what came out of them.
        """
        before, after = (torch.nn.functional.normalize(states.double(), dim=-1) for states in (inputs, outputs))
        pairs = _measured(torch.einsum("ibd,jbd->bij", after, after))
        steps = _measured((before * after).sum(-1).T)
        for name in MEASURES:
            self.between[name] = self.between.get(name, torch.zeros(())) + pairs[name].sum(0)
            self.through[name] = self.through.get(name, torch.zeros(())) + steps[name].sum(0)
        self.texts += outputs.shape[1]

    def results(self) -> tuple[dict[str, Rows], dict[str, tuple[float, ...]]]:
        """Return for each measure the mean between each two layers' outputs, and between a layer's input and output."""
        between = {name: self._mean(total) for name, total in self.between.items()}
        through = {name: self._mean(total) for name, total in self.through.items()}
        return (
            {name: _symmetric(mean) for name, mean in between.items()},
            {name: tuple(round(value, _DIGITS) for value in mean.tolist()) for name, mean in through.items()},
        )

    def _mean(self, total: Tensor) -> Tensor:
        return total / self.texts


def _measured(cosine: Tensor) -> dict[str, Tensor]:
    cosine = cosine.clamp(-1, 1)
    return {COSINE: cosine, ANGULAR: 1 - cosine.acos() / math.pi}


def _symmetric(mean: Tensor) -> Rows:
    """Return plain numbers, equal on both sides of the diagonal and 1 on it."""
    mean = (mean + mean.T) / 2
    mean.fill_diagonal_(1)
    return tuple(tuple(round(value, _DIGITS) for value in row) for row in mean.tolist())


def average(states: Iterable[tuple[Tensor, Tensor]]) -> Means:
    """Add up the states of all batches, each (L, B, D) before and behind the layers."""
    means = Means()
    for inputs, outputs in states:
        means.add(inputs, outputs)
    return means


def reference(inputs: Tensor, outputs: Tensor) -> tuple[dict[str, list[list[float]]], dict[str, list[float]]]:
    """Compute what `Means` computes as the formulas say it, one text and one pair of layers after another.

    Args:
        inputs: (L, N, D), what went into the layers, of all texts.
        outputs: (L, N, D), what came out of them.
    """
    layers, texts = outputs.shape[:2]
    between = {name: [[0.0] * layers for _ in range(layers)] for name in MEASURES}
    through = {name: [0.0] * layers for name in MEASURES}
    for text in range(texts):
        for i in range(layers):
            for name, value in _pair(inputs[i, text], outputs[i, text]).items():
                through[name][i] += value / texts
            for j in range(layers):
                for name, value in _pair(outputs[i, text], outputs[j, text]).items():
                    between[name][i][j] += value / texts
    return between, through


def _pair(one: Tensor, other: Tensor) -> dict[str, float]:
    one, other = one.double(), other.double()
    cosine = min(1.0, max(-1.0, float(one @ other / (one.norm() * other.norm()))))
    return {COSINE: cosine, ANGULAR: 1 - math.acos(cosine) / math.pi}
