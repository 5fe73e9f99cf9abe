"""How many prompts fit in memory at once: an estimate first, then experience."""

from __future__ import annotations

from typing import Any

import psutil
import torch

from sharelora.memory.machine import out_of_memory
from sharelora.support.errors import UserError

# Of the memory that is free, the part that the estimate may use.
SHARE_OF_MEMORY = 0.3
# More tokens at once are not faster: arithmetic is saturated, and on a CPU they only leave the caches.
MOST_TOKENS = {"cpu": 4096, "cuda": 65536}
FIRST = 8
# Prompts of a batch end within this many columns, so that little is fill.
MOST_FILL = 64


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    return out_of_memory(error)


def no_memory() -> UserError:
    """Say that not even one prompt could be read."""
    return UserError("memory ran out with a single prompt; need more memory; pass --bits 4, or use another device")


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """A generous estimate of the memory that one token of a batch takes while it is read.

    Counts the cache of keys and values twice (it is copied when it grows) and a layer's widest activations.
    """
    text = config.get_text_config()
    hidden = text.hidden_size
    heads = text.num_attention_heads
    size = getattr(text, "head_dim", None) or hidden // heads
    cache = 2 * text.num_hidden_layers * (getattr(text, "num_key_value_heads", None) or heads) * size
    wide = 4 * (getattr(text, "intermediate_size", None) or 4 * hidden) + 8 * hidden
    return (2 * cache + wide) * dtype.itemsize


class BatchSize:
    """The number of prompts per batch: fixed, or found out.

    Args:
        asked: a number, or "auto": grow from a small size to what the estimate allows, halve when memory runs out.
        most: what the estimate allows, for "auto".

    Raises:
        UserError: neither a number of at least 1 nor "auto".
    """

    def __init__(self, asked: int | str, most: int) -> None:
        text = str(asked)
        self.auto = text == "auto"
        if not self.auto and (not text.isdigit() or int(text) < 1):
            raise UserError(
                f"found batch size {asked}; need a whole number of at least 1, or auto; change --batch_size"
            )
        self.most = max(1, most) if self.auto else int(text)
        self.size = min(FIRST, self.most) if self.auto else self.most

    def grow(self) -> None:
        """A whole batch went well: try twice the size."""
        self.size = min(2 * self.size, self.most)

    def halve(self) -> None:
        """Memory ran out.

        Raises:
            UserError: a single prompt is already too much.
        """
        if self.size == 1:
            raise no_memory()
        self.size = self.most = self.size // 2


def most_that_fit(config: Any, dtype: torch.dtype, device: torch.device, tokens: int) -> int:
    """How many prompts of a given length an estimate allows at once.

    Args:
        tokens: the length of the longest prompt, its shared prefix included.
    """
    # One position of each prompt, as the model computes them and in fp32.
    logits = 2 * config.get_text_config().vocab_size * torch.float32.itemsize
    by_memory = SHARE_OF_MEMORY * free_memory(device) / (bytes_per_token(config, dtype) * tokens + logits)
    by_speed = MOST_TOKENS.get(device.type, MOST_TOKENS["cuda"]) / tokens
    return max(1, int(min(by_memory, max(by_speed, FIRST))))
