"""The next token: the likeliest, or drawn with random numbers that belong to one text alone.

A text's numbers depend on the seed, its prompt and the number of the sample, so no text changes with its batch, with
its neighbours or with the order of work.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from sharelora.evaluation.generation.settings import GenerationSettings
from sharelora.support.errors import UserError


def seed_of(seed: int, name: str, sample: int) -> int:
    """The seed of one text's draws: 63 bits.

    Args:
        seed: of the whole generation.
        name: of the prompt.
        sample: the number of the text.
    """
    digest = hashlib.sha256(f"{seed}/{sample}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def draws(seed: int, name: str, sample: int, count: int) -> Tensor:
    """The random numbers of one text, one for each of its tokens: (count,) in [0, 1), 64-bit.

    Args:
        seed, name, sample: see `seed_of`.
        count: the most tokens of the text.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, name, sample))
    return torch.rand(count, generator=generator, dtype=torch.float64)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Set to 0 what does not belong to the fewest likeliest tokens that together reach `top_p`.

    Args:
        probabilities: (rows, vocabulary).
        top_p: above 0 and at most 1.
    """
    ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
    # A token stays if those before it do not yet reach the sum; the first always does.
    before = ranked.cumsum(-1) - ranked
    kept = torch.zeros_like(ranked, dtype=torch.bool).scatter(-1, order, before < top_p)
    return probabilities.masked_fill(~kept, 0.0)


def choose(logits: Tensor, settings: GenerationSettings, numbers: Tensor | None) -> Tensor:
    """Choose the next token of every row.

    Args:
        logits: (rows, vocabulary).
        settings: of the generation.
        numbers: (rows,) in [0, 1), what the draws are made with; None where the likeliest token is taken.

    Returns:
        (rows,) tokens.

    Raises:
        UserError: the logits are no numbers.
    """
    if bool(logits.isnan().any()):
        raise UserError(
            "found logits that are no numbers; need a precision in which this model does not overflow; try --dtype "
            "bf16 or fp32"
        )
    if settings.greedy or numbers is None:
        return logits.argmax(-1)
    probabilities = (logits.double() / settings.temperature).softmax(-1)
    if settings.top_p < 1:
        probabilities = nucleus(probabilities, settings.top_p)
    # Tokens stay in the order of the vocabulary: rounding may swap two that are equally likely in any other.
    reached = probabilities.cumsum(-1)
    targets = numbers[:, None].to(reached) * reached[:, -1:]
    return torch.searchsorted(reached, targets, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
