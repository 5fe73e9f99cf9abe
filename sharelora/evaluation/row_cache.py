"""Keys and values of texts that grow: allocated once, written in place, moved only where rows change."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class RowLayer(DynamicLayer):
    """One layer's keys and values.

    A cache that grows by concatenation would copy everything twice at every step. All beams of a prompt have the
    prompt's columns in common, so beams that change places move only what was generated.

    Args:
        keys: of the prompts, (prompts, heads, columns, size).
        values: likewise.
        rows: rows per prompt: its beams, or 1.
        more: columns that will be added.
    """

    keys: Any
    values: Any

    def __init__(self, keys: Tensor, values: Tensor, rows: int, more: int) -> None:
        super().__init__()
        self.prompt = self.length = keys.shape[-2]
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.keys, self.values = (_widened(states, rows, more) for states in (keys, values))

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
        """Go on with some of the rows.

        Args:
            rows: as many as there are, each of the same prompt as before, or fewer.
        """
        if len(rows) < len(self.keys):
            self.keys, self.values = self.keys[rows], self.values[rows]
            return
        for states in (self.keys, self.values):
            generated = states[:, :, self.prompt : self.length]
            generated.copy_(generated.index_select(0, rows))


def _widened(states: Tensor, rows: int, more: int) -> Tensor:
    prompts, heads, columns, size = states.shape
    wide = states.new_empty(prompts * rows, heads, columns + more, size)
    wide[:, :, :columns] = states.repeat_interleave(rows, dim=0) if rows > 1 else states
    return wide


class RowCache(Cache):
    """The cache behind prompts that were read.

    Args:
        prompts: the cache after the prompts were read, one row each, with all of their columns.
        rows: rows per prompt: its beams, or 1.
        more: columns that will be added.
    """

    def __init__(self, prompts: Any, rows: int, more: int) -> None:
        layers: list[Any] = [RowLayer(layer.keys, layer.values, rows, more) for layer in prompts.layers]
        super().__init__(layers=layers)

    def take(self, rows: Tensor) -> None:
        """Go on with some of the rows; see `RowLayer.take`."""
        for layer in self.layers:
            assert isinstance(layer, RowLayer)
            layer.take(rows.to(layer.device))
