"""The papers' formula, as it reads. Every fast path is compared with this one, in values and gradients."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def lora_delta(x: Tensor, a: Tensor, b: Tensor, scaling: float, keep: Tensor | None = None, p: float = 0.0) -> Tensor:
    """Return what an adapter adds to a layer's output: `scaling * B A dropout(x)`.

    Source: LoRA, arXiv 2106.09685, section 4.1; ShareLoRA only says which A and B a layer uses.

    Args:
        x: input, (..., D_in).
        a: (r, D_in).
        b: (D_out, r).
        scaling: alpha / r.
        keep: dropout mask, (..., D_in), one or true where an input is kept; None without dropout.
        p: probability of dropping.

    Returns:
        (..., D_out).
    """
    dropped = x if keep is None else x * keep / (1 - p)
    return scaling * F.linear(F.linear(dropped, a), b)


def lora_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    scaling: float,
    keep: Tensor | None = None,
    p: float = 0.0,
) -> Tensor:
    """Return `W x + bias + scaling * B A dropout(x)`.

    Args:
        x: input, (..., D_in).
        weight: the frozen W, (D_out, D_in).
        bias: (D_out,) or None.
        a, b, scaling, keep, p: as in `lora_delta`.

    Returns:
        (..., D_out).
    """
    return F.linear(x, weight, bias) + lora_delta(x, a, b, scaling, keep, p)
