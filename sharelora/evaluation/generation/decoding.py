"""One batch of texts, token by token: choose, stop, drop the texts that have ended, run the model again.

`CachedDecoder` keeps keys and values; `WholeDecoder` reads everything again for every token.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from sharelora.evaluation.generation.sampling import StoppingCriteria, choose
from sharelora.evaluation.generation.settings import Ended, GenerationSettings, Key
from sharelora.evaluation.key_value_cache import PADDING, UNABLE, PromptReader, RowCache, agree, repeated
from sharelora.evaluation.tokens import Ids

logger = logging.getLogger(__name__)

# Called after every token with the texts that have ended (text, tokens, by what), and how many texts got a token.
Step = Callable[[dict[Key, tuple[str, int, Ended]], int], None]


class Decoder(Protocol):
    """A model that has read a batch of prompts.

    Attributes:
        logits: of the token after each prompt, (B, vocabulary), fp32.
    """

    logits: Tensor

    def read(self, tokens: Tensor) -> Tensor:
        """Append a token to every text, (B,); return the logits of the next ones."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Continue with some of the texts only."""
        ...


class CachedDecoder:
    """Keeps keys and values. Rows are padded on the left, so that all texts grow in the same column.

    Args:
        reader: the model.
        prompts: their tokens, or those after the beginning that they share.
        texts: for each text the index of its prompt; several may have the same, which is then read once.
        new_tokens: most tokens that will be read.
        prefix: the cache of the shared beginning; it is not changed.
        length: tokens in that cache.
    """

    def __init__(
        self,
        reader: PromptReader,
        prompts: Sequence[Ids],
        texts: Sequence[int],
        new_tokens: int,
        prefix: Any = None,
        length: int = 0,
    ) -> None:
        self.reader = reader
        columns = max(map(len, prompts))
        ids = torch.tensor([[*[PADDING] * (columns - len(row)), *row] for row in prompts], device=reader.device)
        lengths = torch.tensor([len(row) for row in prompts], device=reader.device)
        real = (torch.arange(columns, device=reader.device) >= columns - lengths[:, None]).long()
        mask = torch.cat((real.new_ones(len(prompts), length), real), dim=1)
        positions = length + (real.cumsum(1) - 1).clamp(min=0)
        # A cache that the model makes itself may drop columns outside a sliding window; rows are masked by columns.
        cache = DynamicCache() if prefix is None else repeated(prefix, len(prompts))
        output = reader.call(ids, mask, positions, past_key_values=cache, use_cache=True)
        rows = torch.tensor(list(texts))
        if len(texts) > len(prompts):
            output.past_key_values.batch_select_indices(rows)
        self.logits = output.logits[rows, -1].float()
        self.mask, self.positions = mask[rows], positions[rows, -1:]
        self.cache = RowCache(output.past_key_values, 1, new_tokens)

    def read(self, tokens: Tensor) -> Tensor:
        """See `Decoder.read`."""
        self.mask = torch.cat((self.mask, self.mask.new_ones(len(self.mask), 1)), dim=1)
        self.positions = self.positions + 1
        ids = tokens[:, None].to(self.reader.device)
        output = self.reader.call(ids, self.mask, self.positions, past_key_values=self.cache, use_cache=True)
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def keep(self, rows: Tensor) -> None:
        """See `Decoder.keep`."""
        self.cache.take(rows)
        self.mask, self.positions = self.mask[rows], self.positions[rows]


class WholeDecoder:
    """Keeps nothing: for models that cannot continue from a cache.

    Args:
        reader, texts: see `CachedDecoder`.
        prompts: their tokens, all of them.
    """

    def __init__(self, reader: PromptReader, prompts: Sequence[Ids], texts: Sequence[int]) -> None:
        self.reader = reader
        self.rows = [list(prompts[index]) for index in texts]
        self.logits = reader.next_logits(self.rows)

    def read(self, tokens: Tensor) -> Tensor:
        """See `Decoder.read`."""
        for row, token in zip(self.rows, tokens.tolist(), strict=True):
            row.append(token)
        return self.reader.next_logits(self.rows)

    def keep(self, rows: Tensor) -> None:
        """See `Decoder.keep`."""
        self.rows = [self.rows[row] for row in rows.tolist()]


@torch.no_grad()
def can_continue(reader: PromptReader, prompt: Sequence[int], shared: bool) -> bool:
    """Try on a few tokens whether this model can continue from a cache.

    Args:
        reader: the model.
        prompt: any tokens of the vocabulary, at least one.
        shared: try the cache of a shared beginning too.
    """
    able = "past_key_values" in reader.accepted and _continues(reader, (tuple(prompt[-6:]) * 6)[:6], shared)
    if not able and not shared:
        logger.info("this model does not continue from a cache: it reads everything again for every token")
    return able


def _continues(reader: PromptReader, ids: Ids, shared: bool) -> bool:
    start, rows, next_ones = ids[:2], [ids[2:4], ids[2:3]], torch.tensor(ids[4:6])
    expected = torch.cat(
        [reader.next_logits([[*start, *row, token]]) for row, token in zip(rows, ids[4:6], strict=True)]
    )
    try:
        if shared:
            decoder = CachedDecoder(reader, rows, (0, 1), 1, reader.prefix(start), len(start))
        else:
            decoder = CachedDecoder(reader, [start + row for row in rows], (0, 1), 1)
        logits = decoder.read(next_ones)
    except UNABLE as error:
        logger.info("the model cannot continue from a cache%s (%s)", " that prompts share" if shared else "", error)
        return False
    return agree(expected, logits)


@dataclass
class Row:
    """One text while it grows.

    Args:
        key: its prompt and sample.
        prompt: the tokens of its prompt.
        draws: its random numbers, (max_new_tokens,); None where nothing is random.
        ids: its tokens so far.
    """

    key: Key
    prompt: Sequence[int]
    draws: Tensor | None
    ids: list[int] = field(default_factory=list)


@torch.no_grad()
def decode_batch(
    decoder: Decoder, rows: Sequence[Row], settings: GenerationSettings, stopping: StoppingCriteria, step: Step
) -> None:
    """Generate the texts of a batch to their ends.

    Args:
        decoder: the model, which has read the prompts.
        rows: the texts, in the order of the decoder's rows.
        settings: of the generation.
        stopping: says when a text ends.
        step: called after every token.
    """
    live, logits = list(rows), decoder.logits
    draws = [row.draws for row in rows if row.draws is not None]
    numbers = torch.stack(draws).to(logits.device) if draws else None
    for column in range(settings.max_new_tokens):
        tokens = choose(logits, settings, None if numbers is None else numbers[:, column])
        for row, token in zip(live, tokens.tolist(), strict=True):
            row.ids.append(token)
        ends = [stopping.finish(row.prompt, row.ids) for row in live]
        step({row.key: (end[0], len(row.ids), end[1]) for row, end in zip(live, ends, strict=True) if end}, len(live))
        growing = [index for index, end in enumerate(ends) if end is None]
        if not growing:
            return
        if len(growing) < len(live):
            remaining = torch.tensor(growing)
            live, tokens = [live[index] for index in growing], tokens[remaining]
            numbers = None if numbers is None else numbers[remaining]
            decoder.keep(remaining)
        logits = decoder.read(tokens)
