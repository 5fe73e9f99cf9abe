"""Tokenised rows in flat arrays, as a data set for `torch.utils.data` and the Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from sharelora.data.readers import Row

IGNORED = -100


class TokenRows(Dataset[dict[str, Any]]):
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

    def ids(self, index: int) -> torch.Tensor:
        """Token ids of a row, prompt and answer, shape (T)."""
        end = self.ends[index]
        return torch.from_numpy(self.tokens[end - self.lengths[index] : end].astype(np.int64))

    def labels(self, index: int) -> torch.Tensor:
        """What each position is to be predicted as, shape (T): -100 where it does not count.

        The first token never counts, since nothing stands before it to predict it from.
        """
        labels = self.ids(index)
        labels[: 1 if self.train_on_source else max(1, int(self.source_lengths[index]))] = IGNORED
        return labels

    def __getitem__(self, index: int) -> dict[str, Any]:
        item: dict[str, Any] = {"input_ids": self.ids(index), "length": int(self.lengths[index])}
        if self.rows is not None:
            return {**item, "row": self.rows[index]}
        return {**item, "labels": self.labels(index)}
