"""Make batches of conversations about images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharelora.data.rows import IGNORED
from sharelora.data.vision.processing import ImageReader

Item = dict[str, Any]
_OF_TOKENS = ("input_ids", "labels", "length")


@dataclass(frozen=True)
class ImageTextCollator:
    """Batches padded on the right, or for generation on the left, with all their images in one tensor.

    A batch to learn from that has no image gets a row of a black one, which no label counts: the projector would have
    no gradient otherwise, and processes that train together would wait for each other's.

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
        from PIL import Image

        ids = torch.full((self.reader.count,), self.reader.token_id)
        return {
            "input_ids": ids,
            "labels": torch.full_like(ids, IGNORED),
            **self.reader.values([Image.new("RGB", (8, 8))]),
        }


def _image_names(rows: Sequence[Item]) -> list[str]:
    return sorted({name for row in rows for name in row if name not in _OF_TOKENS})
