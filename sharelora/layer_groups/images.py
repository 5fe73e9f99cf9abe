"""Conversations about images to measure layers on: a sample from LLaVA's json, and the measurement."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sharelora.data import padding_id
from sharelora.data.context import Context
from sharelora.data.vision import Conversation, ConversationWriter, ImageTextCollator, ImageTextRows, encode
from sharelora.data.vision.conversations import read_conversations
from sharelora.data.vision.images import require_images
from sharelora.layer_groups.measure import compare_layers, longest_first
from sharelora.layer_groups.similarity import Similarity
from sharelora.layer_groups.texts import draw_items
from sharelora.models.context import context_of
from sharelora.reporting.progress import Progress
from sharelora.support.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageSample:
    """Conversations about images and where they are from.

    Attributes:
        origin: the file.
        records: each with at least one image.
    """

    origin: str
    records: tuple[Conversation, ...]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that tell these conversations and the names of their images from others."""
        digest = hashlib.sha256()
        for record in self.records:
            parts = [path.name for path in record.images] + [turn.text for turn in record.turns]
            digest.update("\0".join([*parts, ""]).encode())
        return digest.hexdigest()[:16]


def read_image_sample(file: str | Path, image_folder: str | Path | None, count: int, seed: int = 0) -> ImageSample:
    """Read conversations in LLaVA's json and draw some of those that have an image.

    Args:
        file: the rows.
        image_folder: what their images are relative to; by default the file's folder.
        count: how many to draw; all of them, with a warning, if there are fewer.
        seed: of the draw.

    Raises:
        UserError: rows or images that cannot be used, or no row with an image.
    """
    records = [record for record in read_conversations(file, image_folder) if record.images]
    if not records:
        raise UserError(f"found no row with an image in {file}; need at least one; give another sample")
    drawn = tuple(draw_items(records, count, seed, file, "pairs"))
    require_images(drawn)
    return ImageSample(Path(file).name, drawn)


def encode_sample(writer: ConversationWriter, sample: ImageSample, max_length: int, context: Context) -> ImageTextRows:
    """Tokenise conversations; notes say what is cut or left out.

    Args:
        writer: writes them as text.
        sample: the conversations.
        max_length: most tokens of a conversation with its images.
        context: what the language model can read.

    Raises:
        UserError: no conversation fits, or one has a token that the model does not know.
    """
    rows, report = encode(writer, sample.records, max_length, "similarity", context)
    for line in report.lines():
        logger.info("note: %s", line)
    return rows


def measure_with_images(
    model: Any,
    writer: ConversationWriter,
    sample: ImageSample,
    name: str,
    max_length: int,
    batch_size: int = 8,
    rows: ImageTextRows | None = None,
) -> Similarity:
    """Measure how similar the layers of a language model are at the last tokens of conversations about images.

    Args:
        model: a vision-language model, on any devices, quantised or not.
        writer: writes the conversations.
        sample: the conversations.
        name: the model's, or its folder.
        max_length: most tokens of a conversation with its images.
        batch_size: conversations at once; the result does not depend on it beyond rounding.
        rows: what `encode_sample` has made of the sample; None to do that now.

    Raises:
        UserError: no conversation fits, an image cannot be read, or a model without a stack of layers.
    """
    context = context_of(model.config)
    rows = encode_sample(writer, sample, max_length, context) if rows is None else rows
    collator = ImageTextCollator(writer.reader, padding_id(writer.reader.tokenizer, context))
    return compare_layers(model, _batches(rows, collator, batch_size), sample, name, len(rows), max_length)


def _batches(rows: ImageTextRows, collator: ImageTextCollator, size: int) -> Iterator[dict[str, Tensor]]:
    for indices in longest_first(rows.lengths.tolist(), size, Progress("similarity")):
        batch = collator([rows[index] for index in indices])
        yield {name: value for name, value in batch.items() if name != "labels"}
