"""How a tiny model is trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How a tiny model is trained.

    Args:
        steps: optimizer steps.
        rows: rows per step.
        length: tokens per row; at most that many where rows are single documents.
        learning_rate: the highest; it warms up and falls linearly over the last part.
        warmup: steps of warming up.
        decay: the part of all steps over which the learning rate falls.
        vocabulary: the tokenizer's largest size.
        samples: documents that the tokenizer is made from.
    """

    steps: int = 240
    rows: int = 8
    length: int = 192
    learning_rate: float = 3e-3
    warmup: int = 20
    decay: float = 0.4
    vocabulary: int = 1024
    samples: int = 2000
