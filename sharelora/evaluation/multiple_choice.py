"""Multiple choice by likelihood: which answer's token the model finds most likely at the end of the prompt.

Items that begin alike (the examples of a subject) have that beginning read once, its keys and values kept, and the
questions read behind it in batches of similar length; only the last position's logits are computed.
`reference.score_one_by_one` does the same the slow way and is what this is tested against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sharelora.evaluation.batching import (
    MOST_PADDING,
    BatchRunner,
    BatchSize,
    Listener,
    context_length,
    evaluating,
    most_that_fit,
)
from sharelora.evaluation.key_value_cache import PromptReader
from sharelora.evaluation.tokens import Encoded, Ids, Item, by_beginning, encode_items, require_room
from sharelora.models.chunks import chunk_rows


@dataclass(frozen=True)
class Choice:
    """The model's answer to one item.

    Args:
        prediction: the index of the most likely answer; the first of equals.
        scores: the log-probability of each answer's token.
    """

    prediction: int
    scores: tuple[float, ...]

    @classmethod
    def best(cls, scores: Sequence[float]) -> Choice:
        """Choose the answer with the highest score."""
        return cls(scores.index(max(scores)), tuple(scores))

    @property
    def tied(self) -> bool:
        """Whether another answer has the same score, as happens in 16 bits: then the order of sums decides."""
        return self.scores.count(max(self.scores)) > 1


@dataclass(frozen=True)
class Scored:
    """The answers to all items, and what they cost.

    Args:
        choices: in the order of the items.
        tokens: how many the model has read, padding not counted.
        prompt_tokens: the tokens of all prompts, which is what reading each one whole would cost.
        whole: how many prompts were read whole.
        batch_size: the largest batch.
    """

    choices: tuple[Choice, ...]
    tokens: int
    prompt_tokens: int
    whole: int
    batch_size: int


def score(
    model: Any,
    tokenizer: Any,
    items: Sequence[Item],
    batch_size: int | str = "auto",
    share_prefix: bool = True,
    limit: int | None = None,
    listener: Listener | None = None,
) -> Scored:
    """Tokenise multiple choice items and answer them; see `answer`.

    Args:
        model, batch_size, share_prefix, listener: see `answer`.
        tokenizer: the model's.
        items: the questions.
        limit: most tokens of a prompt, if that is less than the model's context.

    Raises:
        UserError: prompts longer than the context, answers of several tokens, a bad batch size, too little memory.
    """
    encoded = encode_items(tokenizer, items)
    require_room(encoded, limit)
    return answer(model, encoded, batch_size, share_prefix, listener)


def answer(
    model: Any,
    encoded: Sequence[Encoded],
    batch_size: int | str = "auto",
    share_prefix: bool = True,
    listener: Listener | None = None,
) -> Scored:
    """Answer multiple choice items.

    Args:
        model: a causal language model, with or without a PEFT adapter, plain or quantised; its mode, its gradients and
            the random state are not changed.
        encoded: the questions.
        batch_size: prompts per batch, or "auto".
        share_prefix: read common beginnings once where the model can; else every prompt is read whole.
        listener: called after every batch with the finished and all items, and the tokens read.

    Raises:
        UserError: prompts longer than the context, a bad batch size, too little memory.
    """
    require_room(encoded, context_length(model.config))
    with evaluating(model):
        return _Scoring(model, encoded, batch_size, share_prefix, listener).finish()


class _Scoring:
    """One pass over encoded items."""

    def __init__(
        self,
        model: Any,
        encoded: Sequence[Encoded],
        batch_size: int | str,
        share_prefix: bool,
        listener: Listener | None,
    ) -> None:
        self.encoded, self.reader = encoded, PromptReader(model)
        longest = max(encoded, key=lambda item: item.length, default=None)
        tokens = longest.length if longest else 1
        # As many rows of logits as a chunk has: more are no faster, and with a large vocabulary they are what is large.
        logits = chunk_rows(model.config.get_text_config().vocab_size)
        most = most_that_fit(model.config, model.dtype, self.reader.device, tokens)
        size = BatchSize(batch_size, min(most, logits))
        self.runner: BatchRunner[int, Choice] = BatchRunner(
            size, lambda index: encoded[index].length, len(encoded), listener, most_padding=MOST_PADDING
        )
        self.share_prefix = (
            share_prefix
            and longest is not None
            and any(item.start for item in encoded)
            and self.reader.can_share((longest.ids[-4:] * 4)[:4])
        )

    def finish(self) -> Scored:
        starts = [item.start if self.share_prefix else () for item in self.encoded]
        whole = 0
        for start, members in by_beginning(starts).items():
            self.runner.tokens += len(start)
            whole += 0 if start else len(members)
            # The cache has no name here: it must be freed before the next one is made.
            self._read(members, self.reader.prefix(start) if start else None, len(start))
        choices = tuple(self.runner.results[index] for index in range(len(self.encoded)))
        prompt_tokens = sum(item.length for item in self.encoded)
        return Scored(choices, self.runner.tokens, prompt_tokens, whole, self.runner.largest)

    def _read(self, members: Sequence[int], cache: Any, length: int) -> None:
        """Answer the items behind one cached beginning of some length, or whole prompts where that is 0."""

        def step(batch: list[int]) -> None:
            items = [self.encoded[index] for index in batch]
            rows = [item.rest if length else item.ids for item in items]
            logits = self.reader.next_logits(rows, cache, length)
            choices = [choose(row, item.answers) for row, item in zip(logits, items, strict=True)]
            self.runner.add(dict(zip(batch, choices, strict=True)), sum(map(len, rows)))

        self.runner.run(members, step)


def choose(logits: Tensor, answers: Ids) -> Choice:
    """Choose the most likely answer.

    Args:
        logits: of the next token, (vocabulary,), fp32.
        answers: the token of each answer.
    """
    return Choice.best(logits.log_softmax(-1)[list(answers)].tolist())
