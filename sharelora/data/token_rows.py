"""Tokenised rows in flat arrays, as a data set for `torch.utils.data` and the Trainer, and their batches.

Attention masks come from lengths, so padding with the end token hides no real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from sharelora.data.rows import Row

Item = dict[str, Any]

# The label of a token that does not count in the loss, as in torch's cross entropy.
IGNORED = -100


class TokenRows(Dataset[Item]):
    """Rows of prompt and answer tokens.

    All tokens are in one int32 array, a tenth of what lists of Python integers take.

    Args:
        sources: token ids of each prompt.
        targets: token ids of each answer, empty for prediction.
        train_on_source: the prompt's tokens count in the loss too.
        rows: the rows themselves, given with each item for prediction; None to leave them out.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        train_on_source: bool = False,
        rows: Sequence[Row] | None = None,
    ) -> None:
        pairs = list(zip(sources, targets, strict=True))
        self.lengths = np.array([len(source) + len(target) for source, target in pairs], dtype=np.int64)
        self.ends = np.cumsum(self.lengths)
        self.source_lengths = np.array([len(source) for source, _ in pairs], dtype=np.int64)
        parts = [np.asarray(part, dtype=np.int32) for pair in pairs for part in pair]
        self.tokens = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
        self.train_on_source = train_on_source
        self.rows = rows

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def arrays(self) -> tuple[np.ndarray[Any, Any], ...]:
        """All that decides what is learned."""
        return (self.tokens, self.lengths, self.source_lengths)

    def ids(self, index: int) -> torch.Tensor:
        """Token ids of a row, prompt and answer, shape (T)."""
        end = self.ends[index]
        return torch.from_numpy(self.tokens[end - self.lengths[index] : end].astype(np.int64))

    def labels(self, index: int) -> torch.Tensor:
        """The token to predict at each position, shape (T): -100 where it does not count.

        The first token never counts, since there is nothing before it to predict it from.
        """
        labels = self.ids(index)
        labels[: 1 if self.train_on_source else max(1, int(self.source_lengths[index]))] = IGNORED
        return labels

    def __getitem__(self, index: int) -> Item:
        item: Item = {"input_ids": self.ids(index), "length": int(self.lengths[index])}
        if self.rows is not None:
            return {**item, "row": self.rows[index]}
        return {**item, "labels": self.labels(index)}


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
            # Each padding token is at position 0, an example by itself.
            "position_ids": _padded([item["position_ids"] for item in items], 0),
            "use_cache": False,
        }


@dataclass(frozen=True)
class PredictCollator:
    """Batches for generation: only prompts, padded on the left so that every row ends where its answer starts.

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
