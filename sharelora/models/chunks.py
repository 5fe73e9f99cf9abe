"""How many logits exist at a time: plain numbers, which the estimate of memory needs too."""

from __future__ import annotations

# What a chunk of logits may take, with its copies: large enough that the matrix products run at full speed.
CHUNK_BYTES = 1 << 29
# In 16 bits, their fp32 copy and its exponentials, and the gradient in 16 bits.
BYTES_PER_LOGIT = 12
LEAST_ROWS = 64


def chunk_rows(vocab: int) -> int:
    """Return how many positions are computed at a time.

    It depends on nothing that differs between two runs on one machine, so that a resumed run adds up as the first.
    """
    return max(LEAST_ROWS, CHUNK_BYTES // (BYTES_PER_LOGIT * max(vocab, 1)) // LEAST_ROWS * LEAST_ROWS)
