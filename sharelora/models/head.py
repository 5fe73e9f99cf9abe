"""The output head: how a model turns hidden states into logits, and a loss that never makes them all.

With a vocabulary of 262,144 the logits of 4 x 1024 tokens are 13 GB, more than everything else in a training step
together. The loss needs one number of each row of them, and the backward pass one product: so the head is applied to
some positions at a time, and what a position adds to the gradient of its hidden state is computed along with it.

Letters: N positions, V vocabulary, D_in hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Scaling:
    """What a model does to the logits of its head: `cap * tanh(factor * logits / cap)`.

    Attributes:
        factor: Cohere multiplies, Granite divides.
        cap: Gemma 2 and its kin bound the logits; None for no bound.
    """

    factor: float = 1.0
    cap: float | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the model's logits, of the same shape."""
        if self.factor != 1.0:
            logits = logits * self.factor
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


# Fields of configurations. What is not known here is noticed: the first batch is compared with the model's own logits.
_FACTORS = ("logit_scale", "lm_head_multiplier", "output_multiplier")
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap", "softcap")
_MULTIPLIED_BY_SCALING = ("hyperclovax",)  # all others that have `logits_scaling` divide


def scaling_of(config: Any) -> Scaling:
    """Read from a model's configuration what it does to the logits of its head."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config

    def number(*names: str) -> float | None:
        values = (getattr(text, name, None) for name in names)
        return next((float(value) for value in values if isinstance(value, int | float)), None)

    factor, scaling = number(*_FACTORS), number("logits_scaling")
    if factor is None:
        factor = 1.0
        if scaling:
            factor = scaling if text.model_type in _MULTIPLIED_BY_SCALING else 1.0 / scaling
    return Scaling(factor, number(*_CAPS))


@dataclass(frozen=True)
class Dense:
    """A frozen dense head: weight (V, D_in) and bias (V,) or None."""

    weight: Tensor
    bias: Tensor | None


def dense_head(head: nn.Module, device: torch.device) -> Dense | None:
    """Return the weight of a frozen dense head on this device; None for a head whose own forward has to be called."""
    if type(head) is not nn.Linear:
        return None
    weight, bias = cast(Tensor, head.weight), cast(Tensor | None, head.bias)
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        return None
    # A sharded or offloaded weight is complete only inside the layer's own forward.
    return Dense(weight, bias) if type(weight.data) is Tensor and weight.device == device else None


def output_head(model: nn.Module) -> nn.Module | None:
    """Return the module that makes the logits of a language model, adapted or not; None for other models."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return head if isinstance(head, nn.Module) else None


@contextmanager
def head_on(model: nn.Module, select: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Let the head read some positions alone, as rows of two dimensions.

    torch multiplies three dimensions by a frozen weight in a batch, for which it copies the weight once per row where
    the rows are a slice of a longer tensor: with a large vocabulary that takes longer than the whole model.

    Args:
        model: a language model; one whose head is no module, or is not called as one, makes all logits.
        select: hidden states (B, T, D_in) to those that are wanted, (N, D_in); None for all of them. The logits
            come out as (N, 1, V).
    """
    head = output_head(model)
    if head is None:
        yield
        return
    selected = False

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal selected
        rows = select(inputs[0]) if inputs and inputs[0].dim() == 3 else None
        selected = rows is not None
        return (rows, *inputs[1:]) if selected else None

    def after(module: nn.Module, inputs: tuple[Any, ...], logits: Tensor) -> Tensor | None:
        return logits[:, None] if selected else None

    handles = [head.register_forward_pre_hook(before), head.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def last_position(hidden: Tensor) -> Tensor:
    """Return the hidden state of each row's last position, (B, D_in)."""
    return hidden[:, -1]


def no_position(hidden: Tensor) -> Tensor:
    """Return no hidden state, (0, D_in): for a pass whose keys and values alone are wanted."""
    return hidden[:0, -1]


def reference_losses(
    hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], scaling: Scaling, smoothing: float = 0.0
) -> Tensor:
    """Return the loss of each position as it reads: all logits, then the cross entropy.

    Args:
        hidden: (N, D_in).
        targets: (N,).
        head: hidden states (N, D_in) to raw logits (N, V).
        scaling: what the model does to raw logits.
        smoothing: part of the target that all V tokens share.

    Returns:
        (N,), fp32.
    """
    logits = scaling(head(hidden)).float()
    # An offloaded head may answer on a device of its own.
    return F.cross_entropy(logits, targets.to(logits.device), reduction="none", label_smoothing=smoothing)


def target_losses(
    hidden: Tensor,
    targets: Tensor,
    head: Callable[[Tensor], Tensor],
    dense: Dense | None,
    scaling: Scaling,
    smoothing: float,
    rows: int,
) -> Tensor:
    """Return the loss of each position, some positions at a time.

    Args:
        hidden, targets, head, scaling, smoothing: as in `reference_losses`.
        dense: the head's weight if it is dense and frozen, which is the fast way; None for any other head: adapted,
            trained, quantised, offloaded.
        rows: positions at a time, see `chunk_rows`.

    Returns:
        (N,), fp32.
    """
    if not len(targets):  # still a part of the graph, as engines expect
        return hidden.float().sum(1) * 0.0
    if dense is None:
        return _any_head(hidden, targets, head, scaling, smoothing, rows)
    device = hidden.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else hidden.dtype
    weight, bias = dense.weight.to(dtype), None if dense.bias is None else dense.bias.to(dtype)
    return cast(Tensor, _TargetLosses.apply(hidden.to(dtype), targets, weight, bias, scaling, smoothing, rows))


def _any_head(
    hidden: Tensor,
    targets: Tensor,
    head: Callable[[Tensor], Tensor],
    scaling: Scaling,
    smoothing: float,
    rows: int,
) -> Tensor:
    """Compute the logits again in the backward pass, so that they never exist all at once."""

    def losses(part: Tensor, wanted: Tensor) -> Tensor:
        return reference_losses(part, wanted, head, scaling, smoothing)

    chunks = zip(hidden.split(rows), targets.split(rows), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([losses(*chunk) for chunk in chunks])
    return torch.cat([cast(Tensor, checkpoint(losses, *chunk, use_reentrant=False)) for chunk in chunks])


class _TargetLosses(Function):
    """A dense frozen head: the gradient of the hidden states is made while their logits are there."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        targets: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scaling: Scaling,
        smoothing: float,
        step: int,
    ) -> Tensor:
        losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(targets), step):
            rows = slice(start, start + step)
            losses[rows], d_logits = _losses(
                F.linear(hidden[rows], weight, bias), targets[rows], scaling, smoothing, gradient is not None
            )
            if gradient is not None:
                torch.mm(d_logits, weight, out=gradient[rows])
            del d_logits  # or it would be kept while the next chunk is made
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_losses: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        d_hidden = (gradient.float() * d_losses[:, None]).to(gradient.dtype)
        return d_hidden, None, None, None, None, None, None


def _losses(
    raw: Tensor, targets: Tensor, scaling: Scaling, smoothing: float, need_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Return the losses of some positions, and their gradients by the raw logits, (N, V), in the logits' dtype."""
    scaled = scaling(raw)
    log_p = torch.log_softmax(scaled, dim=-1, dtype=torch.float32)
    losses = -log_p.gather(1, targets[:, None])[:, 0]
    if smoothing:
        losses = (1 - smoothing) * losses - smoothing * log_p.mean(1)
    if not need_gradient:
        return losses, raw
    d_scaled = log_p.exp_()
    d_scaled.scatter_add_(1, targets[:, None], d_scaled.new_full((len(targets), 1), smoothing - 1))
    if smoothing:
        d_scaled -= smoothing / raw.shape[1]
    if scaling.cap is not None:
        d_scaled *= 1 - (scaled.float() / scaling.cap) ** 2
    if scaling.factor != 1.0:
        d_scaled *= scaling.factor
    return losses, d_scaled.to(raw.dtype)
