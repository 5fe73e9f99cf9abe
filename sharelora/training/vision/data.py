"""The rows of a run as tokens and images, and what became of them."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sharelora.data import padding_id
from sharelora.data.vision import (
    OWN_TEMPLATE,
    Conversation,
    ConversationWriter,
    EncodingReport,
    ImageTextCollator,
    ImageTextRows,
    encode,
    image_reader,
    read_conversations,
    require_images,
)
from sharelora.models.known import model_config
from sharelora.models.vision import load_processor, require_vision
from sharelora.support.errors import UserError
from sharelora.training.run import Data
from sharelora.training.vision.options import VisionOptions

logger = logging.getLogger(__name__)

# How models were taught to converse where their own template says something else.
TEMPLATES = {"llava": "vicuna"}


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


def template(asked: str | None, model_type: str) -> str:
    """Return the chat template: the one asked for, or the one that fits the model."""
    return asked or TEMPLATES.get(model_type, OWN_TEMPLATE)


def open_writer(
    place: str,
    asked: str | None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | None = None,
) -> ConversationWriter:
    """Load a model's processor, and return what writes conversations for it.

    Args:
        place: folder or hub id of the model.
        asked: the chat template that the command line names; None for the one that fits the model.
        revision: of the model on the hub.
        token: for the hub.
        cache_dir: where models of the hub are kept.

    Raises:
        UserError: the model cannot see, or see `load_processor`, `image_reader` and `ConversationWriter`.
    """
    require_vision(place)
    reader = image_reader(load_processor(place, revision, token, cache_dir))
    return ConversationWriter(reader, template(asked, model_config(place).model_type))


def load_records(options: VisionOptions, tiny: bool, need_train: bool, need_eval: bool) -> VisionRecords:
    """Read and check the conversations and find their images, before anything large is loaded.

    Rows are held out by the seed alone, so a run that only trains leaves out what a later one evaluates on.

    Raises:
        UserError: rows or images that cannot be used, or a part that is needed and has no rows.
    """
    path = data_path(options, tiny)
    records = read_conversations(path, options.image_folder)
    held = set() if options.eval_data_path else _held_out(records, options, path)
    train = [record for place, record in enumerate(records) if place not in held]
    evaluated = [record for place, record in enumerate(records) if place in held]
    if options.eval_data_path and need_eval:
        evaluated = read_conversations(options.eval_data_path, options.image_folder)
    if need_eval and not evaluated:
        raise UserError("found no rows to evaluate on; pass --eval_data_path or --eval_dataset_size, or evaluate never")
    found = VisionRecords(_drawn(train, options) if need_train else (), evaluated if need_eval else (), str(path))
    require_images([*found.train, *found.eval])
    return found


def data_path(options: VisionOptions, tiny: bool) -> Path:
    """Return the file of rows; the project's own in a tiny run that names none."""
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
    places = random.Random(options.data_seed).sample(range(len(records)), most)
    return [records[place] for place in sorted(places)]


def encode_records(records: VisionRecords, writer: ConversationWriter, options: VisionOptions) -> VisionData:
    """Tokenise conversations; a warning says what is cut or left out.

    Raises:
        UserError: see `encode` and `ConversationWriter.pieces`.
    """
    reports: list[EncodingReport] = []

    def rows(conversations: Sequence[Conversation], split: str) -> ImageTextRows | None:
        if not conversations:
            return None
        tokens, report = encode(writer, conversations, options.model_max_length, split)
        reports.append(report)
        for line in report.lines():
            logger.warning("%s", line)
        return tokens

    train, held = rows(records.train, "train"), rows(records.eval, "eval")
    tokenizer = writer.reader.tokenizer
    collator = ImageTextCollator(writer.reader, padding_id(tokenizer))
    truncated = [report.to_json() for report in reports]
    return VisionData(tokenizer, train, held, collator, records.origin, truncated)
