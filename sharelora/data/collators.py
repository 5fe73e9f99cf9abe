"""Make batches of tokenised rows.

Attention masks come from lengths, so padding with the end token hides no real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sharelora.data.token_rows import IGNORED

Item = dict[str, Any]


def _padded(parts: Sequence[torch.Tensor], fill: int, left: bool = False) -> torch.Tensor:
    """Parts of different lengths as one tensor of shape (B, T)."""
    side = "left" if left else "right"
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=fill, padding_side=side)


def _mask(parts: Sequence[torch.Tensor], left: bool = False) -> torch.Tensor:
    return _padded([torch.ones_like(part) for part in parts], 0, left)


@dataclass(frozen=True)
class TrainCollator:
    """Batches for training and evaluation, padded on the right.

    Args:
        pad_id: the token that fills short rows.
        flat: put the packed rows of a batch behind each other into a single one; flash attention isolates packed
            examples in single rows only.
    """

    pad_id: int
    flat: bool = False

    def __call__(self, items: Sequence[Item]) -> Item:
        """Return `input_ids`, `labels` of shape (B, T) and a mask, or positions where the rows are packed."""
        if "position_ids" in items[0]:
            return self._packed(items)
        ids = [item["input_ids"] for item in items]
        return {
            "input_ids": _padded(ids, self.pad_id),
            "labels": _padded([item["labels"] for item in items], IGNORED),
            "attention_mask": _mask(ids),
        }

    def _packed(self, items: Sequence[Item]) -> Item:
        if self.flat:
            items = [{key: torch.cat([item[key] for item in items]) for key in ("input_ids", "labels", "position_ids")}]
        return {
            "input_ids": _padded([item["input_ids"] for item in items], self.pad_id),
            "labels": _padded([item["labels"] for item in items], IGNORED),
            # Each padding token at position 0 is an example of its own.
            "position_ids": _padded([item["position_ids"] for item in items], 0),
            "use_cache": False,
        }


@dataclass(frozen=True)
class PredictCollator:
    """Batches for generation: prompts alone, padded on the left so that every row ends where its answer starts.

    Args:
        pad_id: the token that fills short rows.
    """

    pad_id: int

    def __call__(self, items: Sequence[Item]) -> Item:
        """Return `input_ids`, `attention_mask` of shape (B, T), and the `rows` with all their columns."""
        ids = [item["input_ids"] for item in items]
        return {
            "input_ids": _padded(ids, self.pad_id, left=True),
            "attention_mask": _mask(ids, left=True),
            "rows": [item["row"] for item in items],
        }
