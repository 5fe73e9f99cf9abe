"""Run a model on prompts that begin alike: the beginning once, the rest in batches behind copies of its cache."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from sharelora.evaluation.batching import is_out_of_memory, no_memory

logger = logging.getLogger(__name__)

# What a model may raise that cannot continue from a cache of several tokens.
UNABLE = (TypeError, ValueError, AttributeError, NotImplementedError, RuntimeError, IndexError)
# Two ways to the same logits differ by rounding alone; a cache that is ignored changes them far more.
_TOLERANCE = 0.05
# Fills short rows; it is masked, so which token it is does not matter.
FILL = 0


class PromptReader:
    """Gives the logits that follow prompts.

    Args:
        model: a causal language model of transformers, with or without a PEFT adapter, plain or quantised.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        base: nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model
        # The class's own method: accelerate replaces the instance's with one that takes anything.
        self.accepted = set(inspect.signature(type(base).forward).parameters)
        self.device = model.get_input_embeddings().weight.device

    def call(self, ids: Tensor, mask: Tensor, positions: Tensor, ends: Tensor | None = None, **options: Any) -> Any:
        """Run the model, leaving out what it does not take.

        Args:
            ids: (B, columns).
            mask: (B, cached columns + columns), 0 where nothing stands.
            positions: (B or 1, columns).
            ends: (B), the column of each row whose logits are wanted; None for the last one of all.
            options: more arguments of the model.
        """
        known = {"position_ids": positions, **({"logits_to_keep": 1} if ends is None else {}), **options}
        chosen = {name: value for name, value in known.items() if name in self.accepted}
        with nullcontext() if ends is None else self._head_sees(ends, ids.shape):
            return self.model(input_ids=ids, attention_mask=mask, **chosen)

    @contextmanager
    def _head_sees(self, ends: Tensor, shape: torch.Size) -> Iterator[None]:
        """Give the model's head one position of each row: logits of all would take more memory than anything else.

        `logits_to_keep` would not do: it takes the same positions of every row. A head that is not called as a module
        sees all positions.
        """
        head = getattr(self.model, "get_output_embeddings", lambda: None)()
        if head is None:
            yield
            return

        def choose(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            hidden = inputs[0] if inputs else None
            if hidden is None or hidden.shape[:2] != shape:
                return None
            rows = torch.arange(len(hidden), device=hidden.device)
            return hidden[rows, ends.to(hidden.device)][:, None], *inputs[1:]

        handle = head.register_forward_pre_hook(choose)
        try:
            yield
        finally:
            handle.remove()

    @torch.no_grad()
    def prefix(self, ids: Sequence[int]) -> Any:
        """Encode the beginning that prompts share.

        Args:
            ids: its tokens.

        Returns:
            The model's cache for one row.

        Raises:
            UserError: there is too little memory for it.
        """
        row = torch.tensor([list(ids)], device=self.device)
        positions = torch.arange(len(ids), device=self.device)[None]
        try:
            return self.call(row, torch.ones_like(row), positions, use_cache=True).past_key_values
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise no_memory() from error

    @torch.no_grad()
    def next_logits(self, rows: Sequence[Sequence[int]], cache: Any = None, length: int = 0) -> Tensor:
        """The logits after each prompt.

        Rows are filled on the right: a gap between the cached beginning and a row would shift a sliding window. The
        model's head is applied to the last position of each row alone.

        Args:
            rows: B token rows, each at least one token: whole prompts, or what follows the shared beginning.
            cache: as `prefix` returned it; it is left as it is.
            length: the number of tokens in the cache.

        Returns:
            (B, vocabulary) in fp32.
        """
        sizes = [len(row) for row in rows]
        ids = torch.tensor([[*row, *[FILL] * (max(sizes) - len(row))] for row in rows], device=self.device)
        columns = torch.arange(max(sizes), device=self.device)[None]
        real = (columns < torch.tensor(sizes, device=self.device)[:, None]).long()
        mask = torch.cat((real.new_ones(len(rows), length), real), dim=1)
        ends = torch.tensor(sizes, device=self.device) - 1
        options = {} if cache is None else {"past_key_values": repeated(cache, len(rows))}
        logits = self.call(ids, mask, length + columns, ends, use_cache=cache is not None, **options).logits
        if logits.shape[1] == 1:
            return logits[:, 0].float()
        # Counted from the end, as virtual tokens of an adapter may stand before the first.
        places = torch.tensor(sizes) - max(sizes) - 1
        return logits[torch.arange(len(rows)), places.to(logits.device)].float()

    def can_share(self, ids: Sequence[int]) -> bool:
        """Whether this model can continue a cached beginning, found out on a few tokens.

        Args:
            ids: any tokens of the vocabulary, at least four.
        """
        if "past_key_values" not in self.accepted:
            logger.info("prompts are read whole: this model keeps no cache")
            return False
        start, rows = list(ids[:2]), [list(ids[2:4]), list(ids[2:3])]
        whole = torch.cat([self.next_logits([start + row]) for row in rows])
        try:
            parts = torch.cat([self.next_logits([row], self.prefix(start), len(start)) for row in rows])
        except UNABLE as error:
            logger.info("prompts are read whole: the model cannot continue from a cache (%s)", error)
            return False
        if not agree(whole, parts):
            logger.info("prompts are read whole: the model answers differently when it continues from a cache")
            return False
        return True


def agree(one: Tensor, other: Tensor) -> bool:
    """Whether logits, (B, vocabulary), differ by rounding alone."""
    # Differences between logits are what matters: a model may shift them all.
    one, other = one - one.mean(-1, keepdim=True), other - other.mean(-1, keepdim=True)
    return bool(((one - other).norm(dim=-1) <= _TOLERANCE * one.norm(dim=-1)).all())


def repeated(cache: Any, rows: int) -> Any:
    """A copy of a one-row cache for several rows; the model adds to the copy."""
    copied = copy.deepcopy(cache)
    copied.batch_repeat_interleave(rows)
    return copied
