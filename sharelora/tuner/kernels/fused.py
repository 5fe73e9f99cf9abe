"""The adapted linear map with forward and backward written by hand, and its dropout masks.

What this saves over autograd on the formula: the adapter's output is added into the base's output in place, the two
gradients of the input meet in one buffer, activations stay in the base's dtype, and sites that read the same input
with the same dropout mask, or none, share one projection and one GEMM for the gradient of their As. A dropout mask
costs less than the matrix product that it is for. Of a dropped input the input and the mask are kept: the input once
for all sites that read it, each with a mask of its own.

Backward is differentiable in turn. What forward computes and backward needs, h, is an output of the functions that
only backward uses: so torch knows how it depends on the inputs, and it is not computed twice.

Shapes: x (N, D_in) with N = B * T tokens, weight (D_out, D_in) or transposed, a (r, D_in), b (D_out, r), h (N, r).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.nn import functional as F

Grad = Tensor | None

# Values of 16 random bits.
_LEVELS = 1 << 16
# The bits of 1.0: a mask of all ones or all zeros, and-ed with these, is the number 1 or 0.
_ONE = {torch.bfloat16: 0x3F80, torch.float16: 0x3C00}


class Base(NamedTuple):
    """A frozen dense layer: weight, bias, and whether the weight is stored as (D_in, D_out), as GPT-2 does."""

    weight: Tensor
    bias: Tensor | None
    transposed: bool = False


def transformed() -> bool:
    """Whether a transform of `torch.func` (grad, jvp, vmap, ...) or forward-mode differentiation is at work.

    These see through torch's own operations alone, so the formula has to serve them.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def base_forward(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    """Return `W x + bias` of a frozen layer in the dtype of x, (..., D_out); see `Base`."""
    weight = weight.to(x.dtype)
    bias = None if bias is None else bias.to(x.dtype)
    return F.linear(x, weight.t() if transposed else weight, bias)


def _base_backward(dy: Tensor, weight: Tensor, transposed: bool) -> Tensor:
    weight = weight.to(dy.dtype)
    return dy @ (weight.t() if transposed else weight)


def _drop(x: Tensor, keep: Tensor | None) -> Tensor:
    return x if keep is None else x * keep


def _add(grad: Tensor, other: Grad) -> Tensor:
    """Return the sum with a gradient of second order, which is there only if backward is differentiated."""
    return grad if other is None else grad + other


def _stacked(matrices: Sequence[Tensor]) -> Tensor:
    return matrices[0] if len(matrices) == 1 else torch.cat(tuple(matrices))


def _grad_b(dy: Tensor, h: Tensor, scale: float) -> Tensor:
    # The thin matrix on the left: with dY on the left the CPU's GEMM takes twice as long.
    return (h.t() @ dy).mul_(scale).t()


class _Adapted(Function):
    """One site, base included: y = W x + s B A drop(x)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        transposed: bool,
        a: Tensor,
        b: Tensor,
        scale: float,
        keep: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        y = base_forward(x, weight, bias, transposed)
        h = _drop(x, keep) @ a.t()
        y.addmm_(h, b.t(), alpha=scale)
        ctx.save_for_backward(x, weight, a, b, h, keep)
        ctx.scale, ctx.transposed = scale, transposed
        ctx.set_materialize_grads(False)
        return y, h

    @staticmethod
    def backward(ctx: Any, dy: Grad, dh: Grad) -> tuple[Grad, ...]:  # type: ignore[override]
        x, weight, a, b, h, keep = ctx.saved_tensors
        if dy is None:  # only h was differentiated, of a backward
            dy = x.new_zeros(x.shape[0], b.shape[0])
        gh = _add((dy @ b).mul_(ctx.scale), dh)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = _base_backward(dy, weight, ctx.transposed)
            if keep is None:
                dx.addmm_(gh, a)
            else:
                dx.addcmul_(gh @ a, keep)
        return dx, None, None, None, gh.t() @ _drop(x, keep), _grad_b(dy, h, ctx.scale), None, None


class _Down(Function):
    """Sites that read the same input with one mask: all their h = A drop(x) in one GEMM, all their dA in one GEMM."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor | None, *matrices: Tensor) -> tuple[Tensor, ...]:
        ranks = [a.shape[0] for a in matrices]
        ctx.save_for_backward(x, keep, *matrices)
        # A site that was not called has no gradient, rather than one of zeros.
        ctx.set_materialize_grads(False)
        return (_drop(x, keep) @ _stacked(matrices).t()).split(ranks, dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: Grad) -> tuple[Grad, ...]:  # type: ignore[override]
        x, keep, *matrices = ctx.saved_tensors
        if all(grad is None for grad in grads):
            return (None,) * (2 + len(grads))
        pairs = zip(grads, matrices, strict=True)
        given = [x.new_zeros(x.shape[0], a.shape[0]) if g is None else g for g, a in pairs]
        gh = given[0] if len(given) == 1 else torch.cat(given, dim=1)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = gh @ _stacked(matrices)
            if keep is not None:
                dx.mul_(keep)
        da = (gh.t() @ _drop(x, keep)).split([a.shape[0] for a in matrices])
        return (dx, None, *(None if grad is None else part for grad, part in zip(grads, da, strict=True)))


class _Up(Function):
    """The rest of such a site, base included: y = W x + s B h."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool, h: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        y = base_forward(x, weight, bias, transposed)
        y.addmm_(h, b.t(), alpha=scale)
        ctx.save_for_backward(weight, b, h)
        ctx.scale, ctx.transposed = scale, transposed
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Grad, ...]:  # type: ignore[override]
        weight, b, h = ctx.saved_tensors
        dx = _base_backward(dy, weight, ctx.transposed) if ctx.needs_input_grad[0] else None
        return dx, None, None, None, (dy @ b).mul_(ctx.scale), _grad_b(dy, h, ctx.scale), None


class _Add(Function):
    """A site whose base has its own forward and backward (quantised): y + s B h."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, h: Tensor, b: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(b, h)
        ctx.scale = scale
        return torch.addmm(y, h, b.t(), alpha=scale)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Grad, ...]:  # type: ignore[override]
        b, h = ctx.saved_tensors
        return dy, (dy @ b).mul_(ctx.scale), _grad_b(dy, h, ctx.scale), None


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def down(x: Tensor, matrices: list[Tensor], keep: Tensor | None = None) -> tuple[Tensor, ...]:
    """Project one input with several As at once.

    The 1 / (1 - p) of dropout is part of the scale given to `up`, `add` or `adapted`: there it costs N * r.

    Args:
        x: input, (..., D_in).
        matrices: As, each (r_i, D_in).
        keep: dropout mask of x's shape, or None.

    Returns:
        One h of shape (N, r_i) per matrix.
    """
    return _Down.apply(_flat(x), None if keep is None else _flat(keep), *matrices)


def up(x: Tensor, base: Base, h: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return `W x + scale * B h` for a dense base, (..., D_out)."""
    y = _Up.apply(_flat(x), *base, h, b, scale)
    return y.view(*x.shape[:-1], y.shape[-1])


def add(y: Tensor, h: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return `y + scale * B h`, (..., D_out), for the output y of any base."""
    return _Add.apply(_flat(y), h, b, scale).view(y.shape)


def adapted(x: Tensor, base: Base, a: Tensor, b: Tensor, scale: float, keep: Tensor | None = None) -> Tensor:
    """Return `W x + scale * B A drop(x)`, (..., D_out), for a dense base and a site that reads its input alone."""
    y, *_ = _Adapted.apply(_flat(x), *base, a, b, scale, None if keep is None else _flat(keep))
    return y.view(*x.shape[:-1], y.shape[-1])


def keep_mask(x: Tensor, p: float) -> Tensor:
    """Draw a dropout mask to multiply with, nonzero with probability 1 - p.

    On a CPU, torch draws one random number per element and multiplies types that it has to convert, which takes longer
    than the base layer's matrix product. Here 16 random bits decide about an element (p is met to 1 / 65536, four
    elements per 64-bit draw) and the mask has x's dtype. The draws come from torch's default generator, so seeds and
    checkpointing behave as for `torch.nn.Dropout`.

    Args:
        x: gives shape, dtype and device.
        p: probability of dropping, 0 < p < 1.

    Returns:
        A tensor of x's shape: ones and zeros of x's dtype on a CPU, bool (half the memory) on other devices.
    """
    if x.device.type != "cpu":
        return torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1 - p)
    threshold = min(max(1, round(p * _LEVELS)), _LEVELS - 1) - _LEVELS // 2
    count = x.numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    draws = draws.view(torch.int16)[:count].view(x.shape)
    if x.dtype in _ONE:
        # Two values remain, threshold - 1 (drop) and threshold (keep); they become 0 and -1, which is all ones.
        bits = draws.clamp_(threshold - 1, threshold).neg_().add_(threshold - 1)
        return bits.bitwise_and_(_ONE[x.dtype]).view(x.dtype)
    return torch.ge(draws, threshold, out=torch.empty(x.shape, dtype=x.dtype))
