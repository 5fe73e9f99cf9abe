"""Let a model read prompts, then one token after the other: with its cache, or all again for every token."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from sharelora.evaluation.encoding import Ids
from sharelora.evaluation.prefix_cache import FILL, UNABLE, PromptReader, agree, repeated
from sharelora.evaluation.row_cache import RowCache

logger = logging.getLogger(__name__)


class Reading(Protocol):
    """Texts that grow.

    Attributes:
        logits: of the token after each prompt, (texts, vocabulary) in fp32.
    """

    logits: Tensor

    def read(self, tokens: Tensor) -> Tensor:
        """Add a token to every text, (texts,); return the logits of the next ones."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the texts only."""
        ...


class Cached:
    """Keeps keys and values. Rows are filled on the left, so that all texts grow in the same column.

    Args:
        reader: the model.
        prompts: their tokens, or what follows the beginning that they share.
        texts: for each text the place of its prompt; several may have the same, which is then read once.
        more: most tokens that will be read.
        prefix: the cache of the shared beginning; it is left as it is.
        length: tokens in that cache.
    """

    def __init__(
        self,
        reader: PromptReader,
        prompts: Sequence[Ids],
        texts: Sequence[int],
        more: int,
        prefix: Any = None,
        length: int = 0,
    ) -> None:
        self.reader = reader
        ids, real = _filled(prompts, reader.device)
        mask = torch.cat((real.new_ones(len(prompts), length), real), dim=1)
        positions = length + (real.cumsum(1) - 1).clamp(min=0)
        # One that the model makes itself may forget columns before a sliding window; a row is masked by columns.
        cache = DynamicCache() if prefix is None else repeated(prefix, len(prompts))
        output = reader.call(ids, mask, positions, past_key_values=cache, use_cache=True)
        rows = torch.tensor(list(texts))
        if len(texts) > len(prompts):
            output.past_key_values.batch_select_indices(rows)
        self.logits = output.logits[:, -1].float()[rows]
        self.mask, self.positions = mask[rows], positions[rows, -1:]
        self.cache = RowCache(output.past_key_values, 1, more)

    def read(self, tokens: Tensor) -> Tensor:
        """See `Reading.read`."""
        self.mask = torch.cat((self.mask, self.mask.new_ones(len(self.mask), 1)), dim=1)
        self.positions = self.positions + 1
        ids = tokens[:, None].to(self.reader.device)
        output = self.reader.call(ids, self.mask, self.positions, past_key_values=self.cache, use_cache=True)
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def keep(self, rows: Tensor) -> None:
        """See `Reading.keep`."""
        self.cache.take(rows)
        self.mask, self.positions = self.mask[rows], self.positions[rows]


class Whole:
    """Keeps nothing: for models that cannot go on from a cache.

    Args:
        reader, texts: see `Cached`.
        prompts: their tokens, all of them.
    """

    def __init__(self, reader: PromptReader, prompts: Sequence[Ids], texts: Sequence[int]) -> None:
        self.reader = reader
        self.rows = [list(prompts[place]) for place in texts]
        self.logits = reader.next_logits(self.rows)

    def read(self, tokens: Tensor) -> Tensor:
        """See `Reading.read`."""
        for row, token in zip(self.rows, tokens.tolist(), strict=True):
            row.append(token)
        return self.reader.next_logits(self.rows)

    def keep(self, rows: Tensor) -> None:
        """See `Reading.keep`."""
        self.rows = [self.rows[row] for row in rows.tolist()]


def _filled(rows: Sequence[Ids], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows filled on the left and which columns are theirs, each (rows, columns)."""
    columns = max(map(len, rows))
    ids = torch.tensor([[*[FILL] * (columns - len(row)), *row] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, (torch.arange(columns, device=device) >= columns - lengths[:, None]).long()


@torch.no_grad()
def can_continue(reader: PromptReader, ids: Ids, shared: bool) -> bool:
    """Whether this model can go on from a cache, found out on a few tokens.

    Args:
        reader: the model.
        ids: any six tokens of the vocabulary.
        shared: whether the cache of a shared beginning is tried too.
    """
    if "past_key_values" not in reader.accepted:
        return False
    start, rows, next_ones = ids[:2], [ids[2:4], ids[2:3]], torch.tensor(ids[4:6])
    expected = torch.cat(
        [reader.next_logits([[*start, *row, token]]) for row, token in zip(rows, ids[4:6], strict=True)]
    )
    try:
        if shared:
            found = Cached(reader, rows, (0, 1), 1, reader.prefix(start), len(start)).read(next_ones)
        else:
            found = Cached(reader, [start + row for row in rows], (0, 1), 1).read(next_ones)
    except UNABLE as error:
        logger.info("the model cannot go on from a cache%s (%s)", " that prompts share" if shared else "", error)
        return False
    return agree(expected, found)
