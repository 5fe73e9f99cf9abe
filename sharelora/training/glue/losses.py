"""The loss of a classifier: per example, so that any division into batches gives the same mean; R-drop and Cutoff."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


def example_losses(logits: Tensor, labels: Tensor, regression: bool, smoothing: float = 0.0) -> Tensor:
    """Return the loss of each example, (B): cross entropy, or the squared error of a score.

    Args:
        logits: (B, classes), or (B, 1) for scores.
        labels: (B), class ids or scores.
        regression: whether they are scores.
        smoothing: of the labels.
    """
    logits = logits.float()
    if regression:
        return F.mse_loss(logits.reshape(len(labels)), labels.float(), reduction="none")
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """Return how far apart two predictions for each example are, (B).

    KL(p1 || m) + KL(p2 || m), each divided by the number of classes, where m comes from the mean of the logits: the
    form that LoRA's script for DeBERTa has.

    Args:
        first: (B, classes).
        second: the same examples, (B, classes).
    """
    first, second = first.float(), second.float()
    middle = F.log_softmax((first + second) / 2, dim=-1)
    pair = [F.log_softmax(logits, dim=-1) for logits in (first, second)]
    return torch.stack([F.kl_div(middle, own, reduction="none", log_target=True).mean(-1) for own in pair]).sum(0)


@dataclass(frozen=True)
class Consistency:
    """R-drop, and Cutoff where tokens are masked.

    Attributes:
        weight: of the divergence.
        masking: probability that a token of the second pass is unknown.
        unknown: the token that takes its place.
        kept: tokens that are never masked: those that begin, separate and pad.
    """

    weight: float
    masking: float = 0.0
    unknown: int = 0
    kept: Collection[int] = ()

    def mask(self, ids: Tensor) -> Tensor:
        """Return the tokens of the second pass, (B, T)."""
        if not self.masking:
            return ids
        special = torch.isin(ids, torch.tensor(sorted(self.kept), device=ids.device))
        chosen = torch.rand(ids.shape, device=ids.device) < self.masking
        return ids.masked_fill(chosen & ~special, self.unknown)

    def twice(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a batch and, below it, the same batch as the second pass sees it."""
        pairs = {name: (value, value) for name, value in inputs.items()}
        pairs["input_ids"] = (inputs["input_ids"], self.mask(inputs["input_ids"]))
        return {name: torch.cat(pair) for name, pair in pairs.items()}

    def losses(self, first: Tensor, second: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the loss of each example, (B): that of both passes, and half the weighted divergence."""
        both = example_losses(first, labels, False, smoothing) + example_losses(second, labels, False, smoothing)
        return both + 0.5 * self.weight * divergence(first, second)
