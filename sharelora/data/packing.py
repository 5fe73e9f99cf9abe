"""Sequence packing: several examples in one row, with attention inside each example only.

Every example's `position_ids` start at 0 again. From such positions, and no attention mask, transformers 5 makes the
mask that keeps the examples apart (`masking_utils.find_packed_sequence_indices`; flash attention reads the same
positions), but only where no cache is in use: the collator therefore also passes `use_cache=False`.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from sharelora.data.token_rows import Item, TokenRows
from sharelora.support.errors import UserError

# Change of the logits, in standard deviations, from which two examples count as mixed.
MIXED = 0.1


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Spread items over bins of one capacity: longest first, each into the fullest bin that takes it.

    Args:
        lengths: the items' lengths.
        capacity: what a bin holds.

    Returns:
        The indices of the items in each bin, the same for the same lengths.

    Raises:
        UserError: an item is longer than a bin.
    """
    longest = max(lengths, default=0)
    if longest > capacity:
        raise UserError(
            f"found pack_len {capacity} but a row of {longest} tokens; need at least {longest}; raise --pack_len"
        )
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, bin), ascending
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        position = bisect.bisect_left(room, (lengths[index], 0))
        if position == len(room):
            bins.append([])
            left, number = capacity, len(bins) - 1
        else:
            left, number = room.pop(position)
        bins[number].append(index)
        bisect.insort(room, (left - lengths[index], number))
    return bins


class PackedRows(Dataset[Item]):
    """Rows packed into longer ones.

    Args:
        rows: the rows to pack.
        pack_len: most tokens of a packed row.

    Raises:
        UserError: a row is longer than that.
    """

    def __init__(self, rows: TokenRows, pack_len: int) -> None:
        self.source = rows
        self.bins = best_fit(rows.lengths.tolist(), pack_len)
        self.lengths = np.array([int(rows.lengths[members].sum()) for members in self.bins], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.bins)

    @property
    def arrays(self) -> tuple[np.ndarray[Any, Any], ...]:
        """All that decides what is learned; where a row goes follows from the lengths."""
        return self.source.arrays

    def __getitem__(self, index: int) -> Item:
        """Tokens, labels and positions of a packed row, each of shape (T)."""
        members = self.bins[index]
        return {
            "input_ids": torch.cat([self.source.ids(member) for member in members]),
            "labels": torch.cat([self.source.labels(member) for member in members]),
            "position_ids": torch.cat([torch.arange(self.source.lengths[member]) for member in members]),
            "length": int(self.lengths[index]),
        }


def check_isolation(model: nn.Module, vocabulary: int, batch: int = 1) -> None:
    """Check on a model that packed examples do not attend to each other, before it is trained on them.

    Another first example must not change the logits of the second one by more than rounding: not at all in most
    models, about 0.04 standard deviations with 8-bit weights, whose rounding depends on the whole batch. A model that
    mixes examples changes them by 0.2 (untrained, small) to 2 (trained).

    Args:
        model: the causal language model; its mode is the same afterwards.
        vocabulary: how many token ids it knows.
        batch: rows of the batch as it reaches the model; 1 for a flat collator.

    Raises:
        UserError: this model mixes them.
    """
    training = model.training
    model.eval()  # dropout would change the logits too
    try:
        one, other = (_second_logits(model, start, vocabulary, batch) for start in (1, 2))
    finally:
        model.train(training)
    if (one - other).abs().max() > MIXED * one.std():
        raise UserError(
            "this model lets packed examples see each other; need attention that isolates them; "
            "leave out --packing, or use --attn_implementation sdpa"
        )


@torch.no_grad()
def _second_logits(model: nn.Module, start: int, vocabulary: int, batch: int) -> torch.Tensor:
    """Logits of the second of two packed examples; `start` changes the first one only."""
    half = 8
    first = torch.arange(start, start + 2 * half, 2)
    ids = (torch.cat([first, torch.arange(half)]) % vocabulary).expand(batch, -1)
    positions = torch.arange(half).repeat(2).expand(batch, -1)
    device = next(model.parameters()).device
    out = model(input_ids=ids.to(device), position_ids=positions.to(device), use_cache=False)
    return out.logits[:, half:].float()
