"""Answers to questions about images: in batches, greedy, on disk as they end.

An answer depends on its batch only by rounding; a batch of one is the plain way to get it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sharelora.data import padding_id
from sharelora.data.context import Context
from sharelora.data.vision import Conversation, ConversationWriter, ImageTextCollator
from sharelora.data.vision.batches import spread
from sharelora.data.vision.images import open_image
from sharelora.data.vision.tokens import require_embeddings, tokenise
from sharelora.evaluation.batching import BatchRunner, BatchSize, Listener, evaluating
from sharelora.evaluation.generation.engine import TextStore
from sharelora.evaluation.generation.sampling import StoppingCriteria, end_tokens
from sharelora.evaluation.generation.settings import Generated, GenerationSettings, Key
from sharelora.models.head import head_on, last_position
from sharelora.support.errors import UserError

MOST_ROWS = 16


@dataclass(frozen=True)
class ImagePrompts:
    """Questions as the model reads them.

    Args:
        writer: has written them.
        records: the questions with their images.
        ids: their tokens, one for each image.
    """

    writer: ConversationWriter
    records: Sequence[Conversation]
    ids: Sequence[Sequence[int]]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each, those of its images included."""
        extra = self.writer.reader.count - 1
        return [len(ids) + extra * len(record.images) for ids, record in zip(self.ids, self.records, strict=True)]

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells these questions, and the names of their images, from others."""
        parts = [[*ids, *(path.name for path in r.images)] for ids, r in zip(self.ids, self.records, strict=True)]
        return {"prompts": len(parts), "prompts_sha256": hashlib.sha256(json.dumps(parts).encode()).hexdigest()}

    def item(self, index: int) -> dict[str, Any]:
        """Return one as the collator takes it.

        Raises:
            UserError: its image cannot be read.
        """
        ids, record, reader = torch.tensor(self.ids[index]), self.records[index], self.writer.reader
        images = [open_image(path, record.name) for path in record.images]
        return {"input_ids": spread(reader, ids, torch.zeros_like(ids, dtype=torch.bool))["input_ids"]} | (
            reader.values(images) if images else {}
        )


def prompts(
    writer: ConversationWriter,
    records: Sequence[Conversation],
    settings: GenerationSettings,
    limit: int | None,
    context: Context | None = None,
    begin: Sequence[int] | None = None,
) -> ImagePrompts:
    """Tokenise questions; nothing is ever cut.

    Args:
        writer: writes them as text.
        records: the questions.
        settings: of the generation.
        limit: most tokens of a question and its answer; None for no limit.
        context: what the language model can read; None if that is not known.
        begin: what questions begin with; by default the begin token, as in training.

    Raises:
        UserError: a question leaves no room for its answer, or has a token that the model does not know.
    """
    questions = ImagePrompts(writer, records, [ids for ids, _ in tokenise(writer, records, begin)])
    longest = max(questions.lengths)
    if limit is not None and longest + settings.max_new_tokens > limit:
        raise UserError(
            f"found a question of {longest} tokens with its image, and --max_new_tokens {settings.max_new_tokens}; "
            f"need both within {limit}; lower --max_new_tokens"
        )
    require_embeddings(writer, questions.ids, context or Context(), f"{len(records):,} questions")
    return questions


def answer(
    model: Any,
    questions: ImagePrompts,
    settings: GenerationSettings,
    batch_size: int | str = "auto",
    store: TextStore | None = None,
    listener: Listener | None = None,
) -> list[Generated]:
    """Answer questions about images.

    Args:
        model: a vision-language model, with or without a PEFT adapter; its mode and gradients are not changed. None
            where the store has every answer.
        questions: what to answer.
        settings: of the generation, which is greedy.
        batch_size: questions at once, or "auto".
        store: keeps every answer as soon as its batch has ended; answers that it has already are not generated again.
        listener: called after every batch with the finished and all questions of this call, and the tokens generated.

    Returns:
        The answers in the order of the questions.

    Raises:
        UserError: an image that cannot be read, a bad batch size, or too little memory.
    """
    answers = {} if store is None else dict(store.results)
    lengths = questions.lengths
    wanted: list[Key] = [(index, 0) for index in range(len(lengths))]
    missing = [key for key in wanted if key not in answers]
    runner: BatchRunner[Key, Generated] = BatchRunner(
        BatchSize(batch_size, MOST_ROWS),
        lambda key: lengths[key[0]],
        len(missing),
        listener,
        None if store is None else store.add,
    )

    def step(batch: list[Key]) -> None:
        texts = _answer_batch(model, questions, [index for index, _ in batch], settings)
        runner.add(dict(zip(batch, texts, strict=True)), sum(text.tokens for text in texts))

    if missing:
        with evaluating(model):
            runner.run(missing, step)
    answers |= runner.results
    return [answers[key] for key in wanted]


@torch.inference_mode()
def _answer_batch(
    model: Any, questions: ImagePrompts, indices: Sequence[int], settings: GenerationSettings
) -> list[Generated]:
    began, reader = time.perf_counter(), questions.writer.reader
    collator = ImageTextCollator(reader, padding_id(reader.tokenizer), left=True)
    batch = collator([questions.item(index) for index in indices])
    device = model.get_input_embeddings().weight.device
    eos = end_tokens(reader.tokenizer, model)
    with head_on(model, last_position):
        ids = model.generate(
            **{name: value.to(device) for name, value in batch.items()},
            max_new_tokens=settings.max_new_tokens,
            do_sample=False,
            eos_token_id=list(eos),
            pad_token_id=collator.pad_id,
        )
    new = ids[:, batch["input_ids"].shape[1] :].tolist()
    seconds = (time.perf_counter() - began) / len(indices)
    stopping = StoppingCriteria(reader.tokenizer, settings, eos)
    texts = []
    for index, row in zip(indices, new, strict=True):
        # After its end token a row is padding.
        length = next((column for column, token in enumerate(row, 1) if token in stopping.eos), len(row))
        end = stopping.finish(list(questions.ids[index]), row[:length])
        assert end is not None, "generate ends at an end token or at the most tokens"
        texts.append(Generated(end[0].strip(), length, end[1], seconds))
    return texts
