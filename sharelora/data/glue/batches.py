"""Rows of one or two texts as tokens and batches, padded to the longest row of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from sharelora.data.context import Context
from sharelora.data.glue.tasks import GlueTask
from sharelora.data.rows import Row
from sharelora.data.token_rows import Item
from sharelora.data.tokenise import BATCH, Ids, padding_id
from sharelora.support.errors import UserError


class GlueRows(Dataset[Item]):
    """Tokenised rows in flat arrays.

    Args:
        ids: token ids of each row, start and end tokens included.
        types: for each token which text it is of, 0 or 1; None where the model does not ask.
        labels: class ids (whole numbers) or scores; None for prediction.
        pad_to: pad every row to this many tokens; None leaves padding to the batch.
        pad_id: the token that fills short rows.
    """

    def __init__(
        self,
        ids: Sequence[Ids],
        types: Sequence[Ids] | None,
        labels: Sequence[int] | Sequence[float] | None,
        pad_to: int | None = None,
        pad_id: int = 0,
    ) -> None:
        # Real tokens of each row, without padding: what grouping by length sorts by.
        self.lengths: list[int] = [len(row) for row in ids]
        self._ends = np.cumsum(self.lengths)
        self._ids = _flat(ids, np.int32)
        self._types = None if types is None else _flat(types, np.int8)
        self.labels = None if labels is None else torch.tensor(labels)
        self.pad_to, self.pad_id = pad_to, pad_id

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def arrays(self) -> tuple[np.ndarray[Any, Any], ...]:
        """All that decides what is learned."""
        own = (self._ids, self._ends, self._types, None if self.labels is None else self.labels.numpy())
        return tuple(array for array in own if array is not None)

    def _row(self, flat: np.ndarray[Any, Any], index: int, fill: int) -> torch.Tensor:
        end, length = self._ends[index], self.lengths[index]
        row = torch.from_numpy(flat[end - length : end].astype(np.int64))
        return torch.nn.functional.pad(row, (0, max(0, (self.pad_to or 0) - length)), value=fill)

    def __getitem__(self, index: int) -> Item:
        """Return `input_ids` of shape (T), the `length` without padding, and `token_type_ids`, `labels` as needed."""
        item: Item = {"input_ids": self._row(self._ids, index, self.pad_id), "length": self.lengths[index]}
        if self._types is not None:
            item["token_type_ids"] = self._row(self._types, index, 0)
        if self.labels is not None:
            item["labels"] = self.labels[index]
        return item


def _flat(rows: Sequence[Ids], dtype: Any) -> np.ndarray[Any, Any]:
    return np.concatenate([np.asarray(row, dtype=dtype) for row in rows]) if rows else np.zeros(0, dtype=dtype)


def encode(
    rows: Sequence[Row],
    task: GlueTask,
    tokenizer: Any,
    max_length: int,
    pad_to_max_length: bool = False,
    context: Context | None = None,
) -> tuple[GlueRows, int]:
    """Tokenise rows; of two texts the longer one loses its end first where a row is too long.

    Args:
        rows: rows of one split; all of them have a `label`, or none has.
        task: says which columns are text.
        tokenizer: a Hugging Face tokenizer, used as it is.
        max_length: most tokens of a row, start and end tokens included.
        pad_to_max_length: pad every row to that length, rather than each batch to its longest row.
        context: what the model can read, if that is known.

    Returns:
        The tokens, and how many rows were cut.

    Raises:
        UserError: a length that leaves no room for text, or a token that the model does not know.
    """
    least = tokenizer.num_special_tokens_to_add(pair=len(task.columns) == 2) + len(task.columns)
    if max_length < least:
        raise UserError(f"found max_seq_length {max_length}; need at least {least}; raise --max_seq_length")
    texts = [[row[column] for column in task.columns] for row in rows]
    ids, types = _tokens(tokenizer, texts)
    long = [index for index, row in enumerate(ids) if len(row) > max_length]
    # Only the long ones again: a truncating call does not say what it cut.
    cut_ids, cut_types = _tokens(tokenizer, [texts[index] for index in long], truncation=True, max_length=max_length)
    for position, index in enumerate(long):
        ids[index] = cut_ids[position]
        if types is not None and cut_types is not None:
            types[index] = cut_types[position]
    context = context or Context()
    context.require_embeddings(tokenizer, ids, f"{len(ids):,} rows")
    labels = [row["label"] for row in rows] if rows and "label" in rows[0] else None
    pad_to = max_length if pad_to_max_length else None
    return GlueRows(ids, types, _typed(labels, task), pad_to, padding_id(tokenizer, context)), len(long)


def _tokens(tokenizer: Any, texts: Sequence[Sequence[str]], **options: Any) -> tuple[list[Ids], list[Ids] | None]:
    """Token ids of each row, and their types where the tokenizer's model takes them."""
    ids: list[Ids] = []
    types: list[Ids] | None = [] if "token_type_ids" in tokenizer.model_input_names else None
    for start in range(0, len(texts), BATCH):
        columns = [list(column) for column in zip(*texts[start : start + BATCH], strict=True)]
        encoded = tokenizer(
            *columns, return_attention_mask=False, return_token_type_ids=types is not None, verbose=False, **options
        )
        ids += encoded["input_ids"]
        if types is not None:
            types += encoded["token_type_ids"]
    return ids, types


def _typed(labels: list[Any] | None, task: GlueTask) -> list[int] | list[float] | None:
    if labels is None:
        return None
    return [float(label) for label in labels] if task.regression else [int(label) for label in labels]


@dataclass(frozen=True)
class GlueCollator:
    """Batches padded on the right, with masks made from lengths.

    Args:
        pad_id: the token that fills short rows.
        multiple_of: pad to a multiple of this many tokens; 8 suits half-precision units of a GPU.
    """

    pad_id: int
    multiple_of: int = 1

    def __call__(self, items: Sequence[Item]) -> Item:
        """Return `input_ids`, `attention_mask` of shape (B, T); and `token_type_ids`, `labels` as items have."""
        longest = max(len(item["input_ids"]) for item in items)
        width = -(-longest // self.multiple_of) * self.multiple_of
        lengths = torch.tensor([item["length"] for item in items])
        batch: Item = {
            "input_ids": _padded([item["input_ids"] for item in items], width, self.pad_id),
            "attention_mask": (torch.arange(width) < lengths[:, None]).long(),
        }
        if "token_type_ids" in items[0]:
            batch["token_type_ids"] = _padded([item["token_type_ids"] for item in items], width, 0)
        if "labels" in items[0]:
            batch["labels"] = torch.stack([item["labels"] for item in items])
        return batch


def _padded(parts: Sequence[torch.Tensor], width: int, fill: int) -> torch.Tensor:
    return torch.stack([torch.nn.functional.pad(part, (0, width - len(part)), value=fill) for part in parts])
