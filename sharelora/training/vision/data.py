"""The rows of a run as tokens and images, and what became of them."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sharelora.data import padding_id
from sharelora.data.context import Context
from sharelora.data.folders import folder_splits
from sharelora.data.vision import (
    Conversation,
    ConversationWriter,
    EncodingReport,
    ImageTextCollator,
    ImageTextRows,
    encode,
    read_conversations,
    require_images,
)
from sharelora.support.errors import UserError
from sharelora.training.run import Data
from sharelora.training.vision.options import VisionOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VisionRecords:
    """The conversations of a run; a part that was not asked for is empty.

    Attributes:
        train: to learn.
        eval: to evaluate on.
        origin: where they were found.
    """

    train: Sequence[Conversation]
    eval: Sequence[Conversation]
    origin: str


@dataclass(frozen=True)
class VisionData(Data):
    """The same as the model reads them."""


def load_records(options: VisionOptions, tiny: bool, need_train: bool, need_eval: bool) -> VisionRecords:
    """Read and check the conversations and find their images, before anything large is loaded.

    Rows are held out by the seed alone, so a run that only trains leaves out what a later one evaluates on.

    Raises:
        UserError: rows or images that cannot be used, or a part that is needed and has no rows.
    """
    path = data_path(options, tiny)
    records = read_conversations(path, options.image_folder)
    own_split = path if path.is_dir() and "eval" in folder_splits(path) else None
    eval_path = options.eval_data_path or own_split
    held = set() if eval_path else _held_out(records, options, path)
    train = [record for index, record in enumerate(records) if index not in held]
    evaluated = [record for index, record in enumerate(records) if index in held]
    if eval_path and need_eval:
        evaluated = read_conversations(eval_path, options.image_folder, split="eval")
    if need_eval and not evaluated:
        raise UserError("found no rows to evaluate on; pass --eval_data_path or --eval_dataset_size, or evaluate never")
    chosen = VisionRecords(_drawn(train, options) if need_train else (), evaluated if need_eval else (), str(path))
    require_images([*chosen.train, *chosen.eval])
    return chosen


def data_path(options: VisionOptions, tiny: bool) -> Path:
    """Return the file or folder of rows; the project's own in a tiny run that names none."""
    if options.data_path is None and tiny:
        from sharelora.tiny import tiny_vision_data

        return tiny_vision_data() / "llava" / "train.json"
    return Path(str(options.data_path)).expanduser()


def _held_out(records: Sequence[Conversation], options: VisionOptions, path: Path) -> set[int]:
    size = options.eval_dataset_size
    if 2 * size > len(records):
        raise UserError(
            f"found {len(records)} rows in {path} and eval_dataset_size {size}, which takes more than half of them; "
            "need more rows; lower --eval_dataset_size or pass --eval_data_path"
        )
    return set(random.Random(options.data_seed).sample(range(len(records)), size))


def _drawn(records: Sequence[Conversation], options: VisionOptions) -> list[Conversation]:
    most = options.max_train_samples
    if most is None or most >= len(records):
        return list(records)
    indices = random.Random(options.data_seed).sample(range(len(records)), most)
    return [records[index] for index in sorted(indices)]


def encode_records(
    records: VisionRecords, writer: ConversationWriter, options: VisionOptions, context: Context
) -> VisionData:
    """Tokenise conversations; a warning says what is cut or left out.

    Args:
        records: the conversations.
        writer: writes them as text.
        options: how long they may be.
        context: what the language model can read.

    Raises:
        UserError: see `encode` and `ConversationWriter.pieces`.
    """
    reports: list[EncodingReport] = []

    def rows(conversations: Sequence[Conversation], split: str) -> ImageTextRows | None:
        if not conversations:
            return None
        tokens, report = encode(writer, conversations, options.model_max_length, split, context)
        reports.append(report)
        for line in report.lines():
            logger.warning("%s", line)
        return tokens

    train, held = rows(records.train, "train"), rows(records.eval, "eval")
    tokenizer = writer.reader.tokenizer
    collator = ImageTextCollator(writer.reader, padding_id(tokenizer, context))
    truncated = [report.to_json() for report in reports]
    return VisionData(tokenizer, train, held, collator, records.origin, truncated)
