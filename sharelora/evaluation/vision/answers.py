"""Answers to questions about images: in batches, the likeliest token every time, kept on disk as they end.

An answer does not depend on its batch but for rounding; a batch of one is the plain way to make it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from sharelora.data import padding_id
from sharelora.data.vision import Conversation, ConversationWriter, ImageTextCollator
from sharelora.data.vision.batches import spread
from sharelora.data.vision.images import open_image
from sharelora.data.vision.tokens import tokenise
from sharelora.evaluation.batching import BatchSize, is_out_of_memory
from sharelora.evaluation.generation import Generated, GenerationSettings, TextStore
from sharelora.evaluation.generation.endings import Endings, end_tokens
from sharelora.evaluation.multiple_choice import Listener, evaluating
from sharelora.support.errors import UserError

logger = logging.getLogger(__name__)

MOST_ROWS = 16


@dataclass(frozen=True)
class ImagePrompts:
    """Questions as the model reads them.

    Args:
        writer: wrote them.
        records: the questions with their images.
        ids: their tokens, a single one for each image.
    """

    writer: ConversationWriter
    records: Sequence[Conversation]
    ids: Sequence[Sequence[int]]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each with those of its images."""
        extra = self.writer.reader.count - 1
        return [len(ids) + extra * len(record.images) for ids, record in zip(self.ids, self.records, strict=True)]

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells these questions, and the names of their images, from others."""
        parts = [[*ids, *(path.name for path in r.images)] for ids, r in zip(self.ids, self.records, strict=True)]
        return {"prompts": len(parts), "prompts_sha256": hashlib.sha256(json.dumps(parts).encode()).hexdigest()}

    def item(self, place: int) -> dict[str, Any]:
        """Return one as the collator takes it.

        Raises:
            UserError: its image cannot be read.
        """
        ids, record, reader = torch.tensor(self.ids[place]), self.records[place], self.writer.reader
        images = [open_image(path, record.name) for path in record.images]
        return {"input_ids": spread(reader, ids, torch.zeros_like(ids, dtype=torch.bool))["input_ids"]} | (
            reader.values(images) if images else {}
        )


def prompts(
    writer: ConversationWriter, records: Sequence[Conversation], settings: GenerationSettings, context: int | None
) -> ImagePrompts:
    """Tokenise questions and see to it that each leaves room for its answer; nothing is ever cut.

    Raises:
        UserError: one does not.
    """
    made = ImagePrompts(writer, records, [ids for ids, _ in tokenise(writer, records)])
    longest = max(made.lengths)
    if context is not None and longest + settings.max_new_tokens > context:
        raise UserError(
            f"found a question of {longest} tokens with its image, and --max_new_tokens {settings.max_new_tokens}; "
            f"need both within {context}; lower --max_new_tokens"
        )
    return made


def answer(
    model: Any,
    asked: ImagePrompts,
    settings: GenerationSettings,
    batch_size: int | str = "auto",
    store: TextStore | None = None,
    listener: Listener | None = None,
) -> list[Generated]:
    """Answer questions about images.

    Args:
        model: one that sees, with or without a PEFT adapter; its mode and gradients are left as they are. None
            where the store has every answer.
        asked: the questions.
        settings: of the generation; nothing is drawn.
        batch_size: questions at once, or "auto".
        store: keeps every answer as soon as its batch has ended; what is in it is not generated again.
        listener: called after every batch with the finished and all questions of this call, and the tokens generated.

    Returns:
        The answers in the order of the questions.

    Raises:
        UserError: an image that cannot be read, a bad batch size, or too little memory.
    """
    found = {} if store is None else dict(store.found)
    size = BatchSize(batch_size, MOST_ROWS)
    lengths = asked.lengths
    waiting = sorted((place for place in range(len(lengths)) if (place, 0) not in found), key=lambda p: -lengths[p])
    total, tokens = len(waiting), 0
    with evaluating(model) if waiting else nullcontext():
        while waiting:
            chunk = waiting[: size.size]
            try:
                new = _batch(model, asked, chunk, settings)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                size.halve()
                continue
            made = {(place, 0): text for place, text in zip(chunk, new, strict=True)}
            found.update(made)
            if store is not None:
                store.add(made)
            waiting = waiting[len(chunk) :]
            tokens += sum(text.tokens for text in new)
            if listener is not None:
                listener(total - len(waiting), total, tokens)
    return [found[place, 0] for place in range(len(lengths))]


@torch.inference_mode()
def _batch(model: Any, asked: ImagePrompts, places: Sequence[int], settings: GenerationSettings) -> list[Generated]:
    began, reader = time.perf_counter(), asked.writer.reader
    collator = ImageTextCollator(reader, padding_id(reader.tokenizer), left=True)
    batch = collator([asked.item(place) for place in places])
    device = model.get_input_embeddings().weight.device
    eos = end_tokens(reader.tokenizer, model)
    whole = model.generate(
        **{name: value.to(device) for name, value in batch.items()},
        max_new_tokens=settings.max_new_tokens,
        do_sample=False,
        eos_token_id=list(eos),
        pad_token_id=collator.pad_id,
    )
    new = whole[:, batch["input_ids"].shape[1] :].tolist()
    seconds = (time.perf_counter() - began) / len(places)
    endings = Endings(reader.tokenizer, settings, eos)
    return [_ended(endings, list(asked.ids[place]), ids, seconds) for place, ids in zip(places, new, strict=True)]


def _ended(endings: Endings, prompt: list[int], ids: list[int], seconds: float) -> Generated:
    """Cut a row after its end token; what follows it in a batch is fill."""
    stop = next((place for place, token in enumerate(ids, 1) if token in endings.eos), len(ids))
    finished = endings.finish(prompt, ids[:stop])
    assert finished is not None, "generate ends at an end token or at the most tokens"
    text, ended = finished
    return Generated(text.strip(), stop, ended, seconds)
