"""Multiple choice by likelihood: which answer's token the model finds most likely at the end of the prompt.

Items that begin alike (the examples of a subject) have that beginning encoded once, its keys and values kept, and the
questions read behind it in batches of similar length; only the last position's logits are computed. `score_one_by_one`
does the same the slow way and is what this is tested against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharelora.evaluation.batching import MOST_FILL, BatchSize, is_out_of_memory, most_that_fit
from sharelora.evaluation.encoding import Encoded, Ids, Item, by_beginning, encode_items, require_room
from sharelora.evaluation.prefix_cache import PromptReader

# Called with the number of finished items, of all items, and of the tokens read.
Listener = Callable[[int, int, int], None]


@dataclass(frozen=True)
class Choice:
    """What the model answered.

    Args:
        prediction: the index of the most likely answer; the first of equals.
        scores: the log-probability of each answer's token.
    """

    prediction: int
    scores: tuple[float, ...]

    @property
    def tied(self) -> bool:
        """Whether another answer has the same score, as happens in 16 bits: then the order of sums decides."""
        return self.scores.count(max(self.scores)) > 1


@dataclass(frozen=True)
class Scored:
    """The answers to all items, and what they cost.

    Args:
        choices: in the order of the items.
        tokens: how many the model has read; fill not counted.
        prompt_tokens: the tokens of all prompts, which is what reading each one whole would cost.
        whole: how many prompts were read whole.
        batch_size: the largest batch.
    """

    choices: tuple[Choice, ...]
    tokens: int
    prompt_tokens: int
    whole: int
    batch_size: int


def context_length(config: Any) -> int | None:
    """How many tokens a model can read, None if its configuration has no such limit."""
    config = config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_seq_len")
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), None)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Switch a model to evaluation mode; afterwards every part of it is in the mode it was in, and so is chance."""
    modes = [(module, module.training) for module in model.modules()]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)):
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode


def score(
    model: Any,
    tokenizer: Any,
    items: Sequence[Item],
    batch_size: int | str = "auto",
    share_prefix: bool = True,
    limit: int | None = None,
    listener: Listener | None = None,
) -> Scored:
    """Encode multiple choice items and answer them; see `answer`.

    Args:
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
            the random state are left as they are.
        encoded: the questions.
        batch_size: prompts per batch, or "auto".
        share_prefix: encode common beginnings once where the model can; else every prompt is read whole.
        listener: called after every batch.

    Raises:
        UserError: prompts longer than the context, a bad batch size, too little memory.
    """
    require_room(encoded, context_length(model.config))
    with evaluating(model):
        return _Run(model, encoded, batch_size, share_prefix, listener).finish()


def score_one_by_one(model: Any, tokenizer: Any, items: Sequence[Item]) -> Scored:
    """Answer items the plain way: each prompt whole, alone, without cache, fill or mask.

    The slow reference of `score`.
    """
    encoded = encode_items(tokenizer, items)
    require_room(encoded, context_length(model.config))
    device = model.get_input_embeddings().weight.device
    with evaluating(model), torch.no_grad():
        logits = (model(input_ids=torch.tensor([item.ids], device=device)).logits[0, -1] for item in encoded)
        choices = tuple(_choose(row.float(), item.answers) for row, item in zip(logits, encoded, strict=True))
    total = sum(item.length for item in encoded)
    return Scored(choices, total, total, len(encoded), min(1, len(encoded)))


def _choose(logits: Tensor, answers: Ids) -> Choice:
    scores = logits.log_softmax(-1)[list(answers)].tolist()
    return Choice(scores.index(max(scores)), tuple(scores))


class _Run:
    """One pass over encoded items."""

    def __init__(
        self,
        model: Any,
        encoded: Sequence[Encoded],
        batch_size: int | str,
        share_prefix: bool,
        listener: Listener | None,
    ) -> None:
        self.encoded, self.listener = encoded, listener or (lambda done, total, tokens: None)
        self.reader = PromptReader(model)
        longest = max((item.length for item in encoded), default=1)
        self.size = BatchSize(batch_size, most_that_fit(model.config, model.dtype, self.reader.device, longest))
        self.share = share_prefix and any(item.start for item in encoded) and self.reader.can_share(self._sample())
        self.choices: dict[int, Choice] = {}
        self.tokens = self.whole = self.largest = 0

    def _sample(self) -> Ids:
        """A few tokens to try the model on."""
        return (max(self.encoded, key=lambda item: item.length).ids[-4:] * 4)[:4]

    def finish(self) -> Scored:
        for start, members in by_beginning([item.start if self.share else () for item in self.encoded]).items():
            self.tokens += len(start)
            self.whole += 0 if start else len(members)
            # No name here: a cache must be gone before the next one is made.
            self._read(members, self.reader.prefix(start) if start else None, len(start))
        choices = tuple(self.choices[index] for index in range(len(self.encoded)))
        total = sum(item.length for item in self.encoded)
        return Scored(choices, self.tokens, total, self.whole, self.largest)

    def _read(self, members: list[int], cache: Any, length: int) -> None:
        # The longest first: if memory is short, that shows at once.
        waiting = sorted(members, key=lambda index: -self.encoded[index].length)
        while waiting:
            batch = self._batch(waiting)
            rows = [self.encoded[index].rest if length else self.encoded[index].ids for index in batch]
            try:
                logits = self.reader.next_logits(rows, cache, length)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self.size.halve()
                continue
            for index, row in zip(batch, logits, strict=True):
                self.choices[index] = _choose(row, self.encoded[index].answers)
            self._count(rows)
            waiting = waiting[len(batch) :]

    def _batch(self, waiting: list[int]) -> list[int]:
        """The next prompts: as many as allowed, unless they differ so much that fill would cost more."""
        shortest = self.encoded[waiting[0]].length - MOST_FILL
        return [index for index in waiting[: self.size.size] if self.encoded[index].length > shortest]

    def _count(self, rows: Sequence[Ids]) -> None:
        self.tokens += sum(map(len, rows))
        self.largest = max(self.largest, len(rows))
        if self.size.auto and len(rows) == self.size.size:
            self.size.grow()
        self.listener(len(self.choices), len(self.encoded), self.tokens)
