"""Keys and values: a beginning that prompts share is read once, and what is generated is written in place.

`PromptReader` runs a model on prompts that begin alike: the beginning once, the rest in batches behind copies of its
cache. `RowCache` holds keys and values of texts that grow: allocated once, moved only where rows change.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from sharelora.evaluation.batching import no_memory
from sharelora.models.head import head_on, last_position, no_position
from sharelora.support.errors import out_of_memory

logger = logging.getLogger(__name__)

# What a model raises that cannot continue from a cache of several tokens.
UNABLE = (TypeError, ValueError, AttributeError, NotImplementedError, RuntimeError, IndexError)
# Two ways to the same logits differ only by rounding; a cache that is ignored changes them far more.
_TOLERANCE = 0.05
# Pads short rows; it is masked, so which token it is does not matter.
PADDING = 0


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

    def call(
        self,
        ids: Tensor,
        mask: Tensor,
        positions: Tensor,
        wanted: Callable[[Tensor], Tensor | None] = last_position,
        **options: Any,
    ) -> Any:
        """Run the model, leaving out what it does not take.

        Args:
            ids: (B, T).
            mask: (B, cached tokens + T), 0 for padding.
            positions: (B or 1, T).
            wanted: hidden states (B, T, D_in) to those whose logits are wanted, (N, D_in); None for all of them.
            options: other arguments of the model.
        """
        # `logits_to_keep` alone would not do: it takes the same positions of every row.
        known = {"position_ids": positions, **({"logits_to_keep": 1} if wanted is last_position else {}), **options}
        chosen = {name: value for name, value in known.items() if name in self.accepted}
        with head_on(self.model, wanted):
            return self.model(input_ids=ids, attention_mask=mask, **chosen)

    @torch.no_grad()
    def prefix(self, ids: Sequence[int]) -> Any:
        """Encode the beginning that prompts share.

        Args:
            ids: its tokens.

        Returns:
            The model's cache for one row.

        Raises:
            UserError: too little memory.
        """
        row = torch.tensor([list(ids)], device=self.device)
        positions = torch.arange(len(ids), device=self.device)[None]
        try:
            return self.call(row, torch.ones_like(row), positions, no_position, use_cache=True).past_key_values
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise no_memory() from error

    @torch.no_grad()
    def next_logits(self, rows: Sequence[Sequence[int]], cache: Any = None, length: int = 0) -> Tensor:
        """The logits after each prompt.

        Rows are padded on the right: a gap between the cached beginning and a row would shift a sliding window. The
        model's head is applied to only the last position of each row.

        Args:
            rows: the tokens of B prompts, at least one each: all of them, or those after the shared beginning.
            cache: as `prefix` returned it; it is not changed.
            length: the number of tokens in the cache.

        Returns:
            (B, vocabulary), fp32.
        """
        sizes = [len(row) for row in rows]
        ids = torch.tensor([[*row, *[PADDING] * (max(sizes) - len(row))] for row in rows], device=self.device)
        columns = torch.arange(max(sizes), device=self.device)[None]
        real = (columns < torch.tensor(sizes, device=self.device)[:, None]).long()
        mask = torch.cat((real.new_ones(len(rows), length), real), dim=1)
        # Counted from the end: an adapter may put virtual tokens before the first column.
        ends = torch.tensor(sizes, device=self.device) - 1 - max(sizes)

        def at_ends(states: Tensor) -> Tensor:
            return states[torch.arange(len(rows), device=states.device), ends.to(states.device)]

        options = {} if cache is None else {"past_key_values": repeated(cache, len(rows))}
        logits = self.call(ids, mask, length + columns, at_ends, use_cache=cache is not None, **options).logits
        # A model whose head is no module has made all of them.
        return (logits[:, 0] if logits.shape[1] == 1 else at_ends(logits)).float()

    def can_share(self, ids: Sequence[int]) -> bool:
        """Try on a few tokens whether this model can continue a cached beginning.

        Args:
            ids: any four tokens of the vocabulary, or more.
        """
        if "past_key_values" not in self.accepted:
            logger.info("prompts are read whole: this model keeps no cache")
            return False
        start, rows = list(ids[:2]), [list(ids[2:4]), list(ids[2:3])]
        expected = torch.cat([self.next_logits([start + row]) for row in rows])
        try:
            continued = torch.cat([self.next_logits([row], self.prefix(start), len(start)) for row in rows])
        except UNABLE as error:
            logger.info("prompts are read whole: the model cannot continue from a cache (%s)", error)
            return False
        if not agree(expected, continued):
            logger.info("prompts are read whole: the model answers differently when it continues from a cache")
            return False
        return True

    @torch.no_grad()
    def can_pad_left(self, ids: Sequence[int]) -> bool:
        """Try on a few tokens whether padding in front of a text leaves what follows it as it is.

        Most recurrent models read padding too.

        Args:
            ids: any two tokens of the vocabulary, or more.
        """
        row = list(ids[:2])
        padded = torch.tensor([[PADDING, PADDING, *row]], device=self.device)
        real = torch.tensor([[0, 0, *[1] * len(row)]], device=self.device)
        logits = self.call(padded, real, (real.cumsum(1) - 1).clamp(min=0), use_cache=False).logits
        return agree(self.next_logits([row]), logits[:, -1].float())


def agree(one: Tensor, other: Tensor) -> bool:
    """Whether two logits, (B, vocabulary), differ only by rounding."""
    # Only differences between logits matter: a model may shift them all.
    one, other = one - one.mean(-1, keepdim=True), other - other.mean(-1, keepdim=True)
    return bool(((one - other).norm(dim=-1) <= _TOLERANCE * one.norm(dim=-1)).all())


def repeated(cache: Any, rows: int) -> Any:
    """Copy a one-row cache for several rows; the model adds to the copy."""
    copied = copy.deepcopy(cache)
    copied.batch_repeat_interleave(rows)
    return copied


class RowLayer(DynamicLayer):
    """One layer's keys and values.

    A cache that grows by concatenation would copy everything twice at every step. All beams of a prompt share the
    prompt's columns, so beams that trade places move only what was generated.

    Args:
        keys: of the prompts, (prompts, heads, T, head size).
        values: as `keys`.
        beams: rows per prompt.
        new_columns: columns that will be added.
    """

    keys: Any
    values: Any

    def __init__(self, keys: Tensor, values: Tensor, beams: int, new_columns: int) -> None:
        super().__init__()
        self.prompt = self.length = keys.shape[-2]
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.keys, self.values = (_allocated(states, beams, new_columns) for states in (keys, values))

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Write the next columns and return everything up to them."""
        end = self.length + key_states.shape[-2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self, *args: Any) -> int:
        """The number of columns in use."""
        return self.length

    def take(self, rows: Tensor) -> None:
        """Continue with some of the rows.

        Args:
            rows: as many as before, each of the same prompt as the row whose place it takes; or fewer, in any order.
        """
        if len(rows) < len(self.keys):
            self.keys, self.values = self.keys[rows], self.values[rows]
            return
        for states in (self.keys, self.values):
            generated = states[:, :, self.prompt : self.length]
            generated.copy_(generated.index_select(0, rows))


def _allocated(states: Tensor, beams: int, new_columns: int) -> Tensor:
    """Copy the prompts' states into a tensor with room for all beams and columns."""
    prompts, heads, columns, size = states.shape
    allocated = states.new_empty(prompts * beams, heads, columns + new_columns, size)
    allocated[:, :, :columns] = states.repeat_interleave(beams, dim=0) if beams > 1 else states
    return allocated


class RowCache(Cache):
    """The cache of texts that grow behind their prompts.

    Args:
        prompts: the cache after the prompts were read, one row each, with all of their columns.
        beams: rows per prompt.
        new_columns: columns that will be added.
    """

    def __init__(self, prompts: Any, beams: int, new_columns: int) -> None:
        layers: list[Any] = [RowLayer(layer.keys, layer.values, beams, new_columns) for layer in prompts.layers]
        super().__init__(layers=layers)

    def take(self, rows: Tensor) -> None:
        """Continue with some of the rows; see `RowLayer.take`."""
        for layer in self.layers:
            assert isinstance(layer, RowLayer)
            layer.take(rows.to(layer.device))
