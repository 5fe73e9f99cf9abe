"""Dropout masks that cost less than the matrix product beside them."""

from __future__ import annotations

import torch
from torch import Tensor

_LEVELS = 1 << 16
# The bits of 1.0: a mask of all ones or all zeros, and-ed with these, is the number 1 or 0.
_ONE = {torch.bfloat16: 0x3F80, torch.float16: 0x3C00}


def keep_mask(x: Tensor, p: float) -> Tensor:
    """Draw a mask to multiply with, nonzero with probability 1 - p.

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
    draws = _random_int16(x.numel()).view(x.shape)
    if x.dtype in _ONE:
        # Two values remain, threshold - 1 (drop) and threshold (keep); they become 0 and -1, which is all ones.
        bits = draws.clamp_(threshold - 1, threshold).neg_().add_(threshold - 1)
        return bits.bitwise_and_(_ONE[x.dtype]).view(x.dtype)
    return torch.ge(draws, threshold, out=torch.empty(x.shape, dtype=x.dtype))


def _random_int16(count: int) -> Tensor:
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    return draws.view(torch.int16)[:count]
