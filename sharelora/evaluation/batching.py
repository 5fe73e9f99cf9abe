"""Prompts through a model in batches: an estimate of how many fit into memory at once first, then experience.

Multiple choice, generation, beam search and answers about images all run through `BatchRunner`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import psutil
import torch

from sharelora.memory.activations import heads_of
from sharelora.models.context import context_of
from sharelora.support.errors import UserError, out_of_memory
from sharelora.tuner.layer import unchanging

# The share of free memory that the estimate may use.
SHARE_OF_MEMORY = 0.3
# More tokens at once are not faster: arithmetic is saturated, and on a CPU they only leave the caches.
MOST_TOKENS = {"cpu": 4096, "cuda": 65536}
FIRST_SIZE = 8
# Prompts of one batch differ by fewer tokens than this, so that little of it is padding.
MOST_PADDING = 64

# Called with the number of finished items, of all items, and of the tokens read or generated so far.
Listener = Callable[[int, int, int], None]
Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


def context_length(config: Any) -> int | None:
    """How many tokens a model can read, None if its configuration has no such limit."""
    return context_of(config).tokens


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Switch a model to evaluation mode; afterwards each of its modules is in its former mode, and so is the RNG."""
    modes = [(module, module.training) for module in model.modules()]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)), unchanging(model):
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode


def no_memory() -> UserError:
    """The error for a model that cannot read even one prompt."""
    return UserError("memory ran out with a single prompt; need more memory; pass --bits 4, or use another device")


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """A generous estimate of the memory that one token of a batch takes while it is read.

    Counts keys and values twice (the cache is copied when it grows) and a layer's widest activations.
    """
    text = config.get_text_config()
    hidden, heads = text.hidden_size, heads_of(text)
    # Without attention there is a state of its layers, which does not grow with a text.
    cache = 2 * text.num_hidden_layers * heads.key_value * heads.size
    wide = 4 * (getattr(text, "intermediate_size", None) or 4 * hidden) + 8 * hidden
    return (2 * cache + wide) * dtype.itemsize


def most_that_fit(config: Any, dtype: torch.dtype, device: torch.device, tokens: int) -> int:
    """How many prompts of a given length an estimate allows at once.

    Args:
        config: the model's.
        dtype: of its weights.
        device: where it is.
        tokens: the length of the longest prompt, its shared prefix included.
    """
    by_speed = {kind: max(most // tokens, FIRST_SIZE) for kind, most in MOST_TOKENS.items()}
    # The logits of one position of each prompt, as the model computes them and in fp32.
    return most_rows(config, dtype, device, tokens, 2 * torch.float32.itemsize, by_speed)


def most_rows(
    config: Any,
    dtype: torch.dtype,
    device: torch.device,
    tokens: int,
    bytes_per_logit: int,
    by_speed: Mapping[str, int],
) -> int:
    """How many rows of a batch an estimate allows at once.

    Args:
        config: the model's.
        dtype: of its weights.
        device: where it is.
        tokens: of a row, those that will be generated included.
        bytes_per_logit: what a row keeps per entry of the vocabulary, all copies together.
        by_speed: kind of device -> the number of rows above which a batch is no faster.
    """
    row = bytes_per_token(config, dtype) * tokens + bytes_per_logit * config.get_text_config().vocab_size
    by_memory = int(SHARE_OF_MEMORY * free_memory(device) / row)
    return max(1, min(by_memory, by_speed.get(device.type, by_speed["cuda"])))


class BatchSize:
    """The number of prompts per batch: fixed, or found by trying.

    Args:
        batch_size: a number, or "auto": grow from a small size to what the estimate allows, halve when memory runs out.
        most: what the estimate allows, for "auto".

    Raises:
        UserError: neither a number of at least 1 nor "auto".
    """

    def __init__(self, batch_size: int | str, most: int) -> None:
        text = str(batch_size)
        self.auto = text == "auto"
        if not self.auto and (not text.isdigit() or int(text) < 1):
            raise UserError(
                f"found batch size {batch_size}; need a whole number of at least 1, or auto; change --batch_size"
            )
        self.most = max(1, most) if self.auto else int(text)
        self.size = min(FIRST_SIZE, self.most) if self.auto else self.most

    def grow(self, batch: int) -> None:
        """After a batch that went well: try twice the size, if the batch was a full one."""
        if self.auto and batch == self.size:
            self.size = min(2 * self.size, self.most)

    def halve(self) -> None:
        """After a batch that ran out of memory.

        Raises:
            UserError: a single prompt is already too much.
        """
        if self.size == 1:
            raise no_memory()
        self.size = self.most = self.size // 2


class BatchRunner(Generic[Key, Result]):
    """Runs a model over prompts in batches, the longest first, and collects what comes of each.

    Args:
        size: prompts per batch.
        length: the tokens of a prompt, by its key.
        total: how many prompts there are, for the listener.
        listener: called after every batch, or every token of it.
        keep: takes results as they come, to put them on disk.
        most_padding: prompts of one batch differ by fewer tokens than this; None for no limit.

    Attributes:
        results: key -> result, as far as they have come.
        tokens: how many tokens were read or generated.
        largest: the largest batch.
    """

    def __init__(
        self,
        size: BatchSize,
        length: Callable[[Key], int],
        total: int,
        listener: Listener | None = None,
        keep: Callable[[dict[Key, Result]], None] | None = None,
        most_padding: int | None = None,
    ) -> None:
        self.size, self.length, self.total = size, length, total
        self.listener, self.keep, self.most_padding = listener, keep, most_padding
        self.results: dict[Key, Result] = {}
        self.tokens = self.largest = 0

    def run(self, keys: Iterable[Key], step: Callable[[list[Key]], None]) -> None:
        """Run prompts until each has its result.

        Args:
            keys: of the prompts.
            step: runs one batch and hands over what comes of it with `add`. Where memory runs out, what was handed
                over stays, and the others come again in smaller batches.

        Raises:
            UserError: memory runs out with a single prompt.
        """
        # The longest first: if memory is short, that shows at once.
        waiting = sorted(keys, key=lambda key: -self.length(key))
        while waiting:
            batch = self._next_batch(waiting)
            try:
                step(batch)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self.size.halve()
            else:
                self.size.grow(len(batch))
                self.largest = max(self.largest, len(batch))
            waiting = [key for key in batch if key not in self.results] + waiting[len(batch) :]

    def _next_batch(self, waiting: list[Key]) -> list[Key]:
        """As many prompts as allowed, unless they differ so much that padding would cost more."""
        batch = waiting[: self.size.size]
        if self.most_padding is None:
            return batch
        shortest = self.length(batch[0]) - self.most_padding
        return [key for key in batch if self.length(key) > shortest]

    def add(self, new: Mapping[Key, Result], tokens: int) -> None:
        """Take results, none too, and say how far the run is.

        Args:
            new: key -> result.
            tokens: how many tokens were read or generated since the last call.
        """
        self.results.update(new)
        self.tokens += tokens
        if new and self.keep is not None:
            self.keep(dict(new))
        if self.listener is not None:
            self.listener(len(self.results), self.total, self.tokens)
