"""The loss per target token, made in the place of the model's logits.

While a batch is computed, the model's head does not answer with logits: it takes the hidden states of the positions
that have a target, makes their losses (`sharelora.models.head`), and hands a single number on. So this happens inside
the model's own forward pass, where engines have put sharded weights together, for any model that has a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.loss.loss_utils import ForCausalLMLoss

from sharelora.data.token_rows import IGNORED
from sharelora.models.chunks import chunk_rows
from sharelora.models.head import dense_head, output_head, scaling_of, target_losses


def logits_losses(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the loss of each position that has a target, from all logits: the slow way, as it reads.

    Args:
        logits: of a model, (B, T, V).
        labels: (B, T); a position's target is the label of the next one.
        smoothing: part of the target that all V tokens share.

    Returns:
        (N,), fp32, in the order of rows and positions.
    """
    targets = labels[:, 1:].to(logits.device)
    counted = targets != IGNORED
    # Only the positions that count become fp32: the vocabulary is wide, and inputs are half of all tokens.
    return F.cross_entropy(
        logits[:, :-1][counted].float(), targets[counted], label_smoothing=smoothing, reduction="none"
    )


def sums_by_row(losses: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of each row's losses, (B,), from those of all positions with a target, (N,)."""
    rows = (labels[:, 1:] != IGNORED).nonzero()[:, 0].to(losses.device)
    return losses.new_zeros(len(labels)).index_add_(0, rows, losses)


def mean_per_target(losses: Tensor, labels: Tensor, count: Tensor | int | None) -> Tensor:
    """Return the mean of losses (N,) over `count` targets, those of the whole update; None for those of this batch."""
    targets = (labels[:, 1:] != IGNORED).sum() if count is None else torch.as_tensor(count)
    # A batch without any target has a loss of 0, not of 0 / 0.
    return losses.sum() / targets.clamp(min=1).to(losses.device)


class UnknownHeadError(Exception):
    """A model does something to its logits that is not known here."""


@dataclass
class Batch:
    """The targets of a batch, and what the head has made of them.

    Attributes:
        labels: (B, T).
        losses: of the positions that have a target, (N,); None before the head was called.
        expected: logits of one position, as they should come out of the model.
    """

    labels: Tensor
    losses: Tensor | None = None
    expected: Tensor | None = None


class TokenLoss:
    """The loss of a language model without its logits.

    Args:
        model: with a head.
    """

    def __init__(self, model: nn.Module) -> None:
        head = output_head(model)
        assert head is not None, "see `obstacle`"
        config: Any = model.config
        self.head, self.scaling = head, scaling_of(config)
        self.rows = chunk_rows(config.get_text_config().vocab_size)
        self.known = False  # whether the model has been seen to treat its logits as assumed
        self.batch: Batch | None = None

    @contextmanager
    def watching(self, labels: Tensor, smoothing: float = 0.0) -> Iterator[None]:
        """Let the head make losses in the forward pass within.

        Args:
            labels: (B, T).
            smoothing: part of each target that all V tokens share.
        """
        own = vars(self.head).get("forward")
        forward = self.head.forward
        batch = self.batch = Batch(labels)

        def losses_for_logits(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if batch.losses is not None or hidden.shape[:2] != labels.shape:
                raise UnknownHeadError("its head is called in another way")
            targets = labels[:, 1:].to(hidden.device)
            counted = targets != IGNORED
            # A head whose forward was replaced, as accelerate does to offload weights, has no weight to look at.
            dense = dense_head(self.head, hidden.device) if own is None else None
            positions = hidden[:, :-1][counted]
            batch.losses = target_losses(
                positions, targets[counted], forward, dense, self.scaling, smoothing, self.rows
            )
            if self.known:  # what the model does to its logits is done to one number
                return hidden[:1, -1:, :1]
            # A resumed run asks again, and must not draw other random numbers for it.
            with torch.random.fork_rng([hidden.device] if hidden.is_cuda else []):
                raw = forward(hidden[:1, -1])[:, None]
            batch.expected = self.scaling(raw.detach())
            return raw

        self.head.forward = losses_for_logits  # type: ignore[method-assign]
        try:
            yield
        finally:
            self.batch = None
            if own is None:
                del self.head.forward
            else:
                self.head.forward = own  # type: ignore[method-assign]

    def losses(self, outputs: Any) -> Tensor:
        """Return the losses of the batch that is watched, (N,), from the outputs of its forward pass.

        What the model made of the logits of one position is compared, once, with what is assumed.

        Raises:
            UnknownHeadError: they differ, or the head was not called.
        """
        batch = self.batch
        if batch is None or batch.losses is None:
            raise UnknownHeadError("its head is not called")
        if not self.known and not _agree(outputs.logits, batch.expected):
            raise UnknownHeadError("it changes its logits in an unknown way")
        self.known = True
        return batch.losses


def _agree(made: Tensor, expected: Tensor | None) -> bool:
    if expected is None or made.shape != expected.shape:
        return False
    return torch.allclose(made.detach().float(), expected.to(made.device).float(), rtol=1e-2, atol=1e-3)


def obstacle(model: nn.Module) -> str | None:
    """Return why a model's loss has to be its own, in words; None if it need not be."""
    if output_head(model) is None:
        return "the model has no output head"
    if getattr(model, "loss_function", None) is not ForCausalLMLoss:
        return "the model has a loss of its own"
    return None
