"""Tokenised conversations with their images, as a data set, and their batches; an image is opened with its row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sharelora.data.token_rows import IGNORED, Item
from sharelora.data.vision.conversations import Conversation
from sharelora.data.vision.images import ImageReader, open_image

# What a row has besides its images.
_OF_TOKENS = ("input_ids", "labels", "length")


def spread(reader: ImageReader, ids: Tensor, learnt: Tensor) -> Item:
    """Return a row as the model reads it, with all tokens of every image.

    Args:
        reader: knows how many these are.
        ids: (S,), a single token for each image.
        learnt: (S,), whether a token counts in the loss.

    Returns:
        `input_ids` and `labels`, (T,), and the `length` T.
    """
    times = torch.where(ids == reader.token_id, reader.count, 1)
    ids, learnt = ids.repeat_interleave(times), learnt.repeat_interleave(times)
    return {"input_ids": ids, "labels": torch.where(learnt, ids, IGNORED), "length": len(ids)}


class ImageTextRows(Dataset[Item]):
    """Rows of tokens and images.

    An image's tokens, 576 equal ones in LLaVA-1.5, are kept as a single one: there are half a million rows.

    Args:
        reader: makes the vision tower's input.
        conversations: where each row is from.
        tokens: its ids, one for each image.
        learnt: for each of these ids whether it counts in the loss.
    """

    def __init__(
        self,
        reader: ImageReader,
        conversations: Sequence[Conversation],
        tokens: Sequence[Sequence[int]],
        learnt: Sequence[Sequence[bool]],
    ) -> None:
        self.reader, self.conversations = reader, list(conversations)
        sizes = np.array([len(ids) for ids in tokens], dtype=np.int64)
        images = np.array([len(conversation.images) for conversation in conversations], dtype=np.int64)
        self.ends = np.cumsum(sizes)
        self.lengths = sizes + images * (reader.count - 1)
        self.tokens = np.concatenate([np.asarray(ids, dtype=np.int32) for ids in tokens])
        self.learnt = np.concatenate([np.asarray(marks, dtype=np.bool_) for marks in learnt])

    def __len__(self) -> int:
        return len(self.conversations)

    @property
    def arrays(self) -> tuple[np.ndarray[Any, Any], ...]:
        """All that decides what is learned, but for the images."""
        return (self.tokens, self.learnt, self.ends)

    def __getitem__(self, index: int) -> Item:
        """Return `input_ids` and `labels`, (T), and what the vision tower reads.

        Raises:
            UserError: an image cannot be read.
        """
        start = self.ends[index - 1] if index else 0
        ids = torch.from_numpy(self.tokens[start : self.ends[index]].astype(np.int64))
        learnt = torch.from_numpy(self.learnt[start : self.ends[index]])
        item, conversation = spread(self.reader, ids, learnt), self.conversations[index]
        if not conversation.images:
            return item
        return {**item, **self.reader.values([open_image(path, conversation.name) for path in conversation.images])}


@dataclass(frozen=True)
class ImageTextCollator:
    """Batches padded on the right, or for generation on the left, with all their images in one tensor.

    A training batch without any image gets a row with a black one, in which no label counts: without a gradient of the
    projector, processes that train together would wait for each other's.

    Args:
        reader: the model's.
        pad_id: the token that fills short rows.
        left: pad on the left.
    """

    reader: ImageReader
    pad_id: int
    left: bool = False

    def __call__(self, items: Sequence[Item]) -> Item:
        """Return `input_ids`, `attention_mask`, `labels` where there are any, (B, T), and the images, (N, ...)."""
        rows = list(items)
        values = _image_names(rows)
        if not values and "labels" in rows[0]:
            rows.append(self._blank())
            values = _image_names(rows)
        ids = self._padded([row["input_ids"] for row in rows], self.pad_id)
        mask = self._padded([torch.ones_like(row["input_ids"]) for row in rows], 0)
        batch = {"input_ids": ids, "attention_mask": mask}
        if "labels" in rows[0]:
            batch["labels"] = self._padded([row["labels"] for row in rows], IGNORED)
        if self.reader.tells_types:
            batch["token_type_ids"] = ((ids == self.reader.token_id) & (mask == 1)).long()
        return {**batch, **{name: torch.cat([row[name] for row in rows if name in row]) for name in values}}

    def _padded(self, parts: Sequence[Tensor], fill: int) -> Tensor:
        side = "left" if self.left else "right"
        return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=fill, padding_side=side)

    def _blank(self) -> Item:
        from PIL import Image  # optional

        ids = torch.full((self.reader.count,), self.reader.token_id)
        return {
            "input_ids": ids,
            "labels": torch.full_like(ids, IGNORED),
            **self.reader.values([Image.new("RGB", (8, 8))]),
        }


def _image_names(rows: Sequence[Item]) -> list[str]:
    return sorted({name for row in rows for name in row if name not in _OF_TOKENS})
