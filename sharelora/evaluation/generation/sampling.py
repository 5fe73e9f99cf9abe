"""The next token, and where a text ends: at an end token, before a stop string, or at the most tokens allowed.

The random numbers of a text depend on the seed, its prompt and the number of the sample, so no text changes with its
batch, its neighbours or the order of work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sharelora.evaluation.generation.settings import Ended, GenerationSettings
from sharelora.support.errors import UserError

# Tokens of the prompt that are decoded before a text: some tokenizers take a space from the first token they decode,
# which in code is a wrong indentation.
CONTEXT_TOKENS = 4
# The likeliest tokens of a row, among which its nucleus is nearly always.
CANDIDATES = 1024
# Tokens looked at besides as many as the longest stop string has bytes.
MARGIN = 4


def seed_of(seed: int, name: str, sample: int) -> int:
    """The seed of one text's random numbers: 63 bits.

    Args:
        seed: of the whole generation.
        name: of the prompt.
        sample: the number of the text.
    """
    digest = hashlib.sha256(f"{seed}/{sample}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def draws(seed: int, name: str, sample: int, count: int) -> Tensor:
    """The random numbers of one text, one for each of its tokens: (count,) in [0, 1), 64-bit.

    Args:
        seed, name, sample: see `seed_of`.
        count: the most tokens of the text.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, name, sample))
    return torch.rand(count, generator=generator, dtype=torch.float64)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Set to 0 what does not belong to the fewest likeliest tokens that together reach `top_p`.

    Args:
        probabilities: (B, vocabulary).
        top_p: above 0 and at most 1.
    """
    # To sort a large vocabulary takes longer than to run a small model.
    ranked = probabilities.topk(min(CANDIDATES, probabilities.shape[-1])).values
    if bool((ranked.sum(-1) < top_p).any()):
        ranked = probabilities.sort(dim=-1, descending=True).values
    # A token stays if those before it do not yet reach the sum; the first always does.
    count = (ranked.cumsum(-1) - ranked < top_p).sum(-1, keepdim=True)
    least = ranked.gather(-1, count - 1)
    inside = probabilities >= least
    if bool((inside.sum(-1, keepdim=True) > count).any()):
        # Of tokens that are as likely the first ones stay.
        above, equal = probabilities > least, probabilities == least
        inside = above | (equal & (equal.cumsum(-1) <= count - above.sum(-1, keepdim=True)))
    return probabilities.masked_fill(~inside, 0.0)


def choose(logits: Tensor, settings: GenerationSettings, numbers: Tensor | None) -> Tensor:
    """Choose the next token of every row.

    Args:
        logits: (B, vocabulary).
        settings: of the generation.
        numbers: (B,) in [0, 1), the random numbers; None where the likeliest token is taken.

    Returns:
        (B,) tokens.

    Raises:
        UserError: a logit is NaN.
    """
    # The greatest is NaN where any is, and takes a sixth of the time to find.
    if bool(logits.amax(-1).isnan().any()):
        raise UserError(
            "found NaN among the logits; need a precision in which this model does not overflow; try --dtype "
            "bf16 or fp32"
        )
    if settings.greedy or numbers is None:
        return logits.argmax(-1)
    probabilities = logits.to(torch.float64, copy=True).div_(settings.temperature).softmax(-1)
    if settings.top_p < 1:
        probabilities = nucleus(probabilities, settings.top_p)
    # Summed in the order of the vocabulary: in a sorted one rounding may swap two tokens that are equally likely.
    cumulative = probabilities.cumsum(-1)
    targets = numbers[:, None].to(cumulative) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def end_tokens(tokenizer: Any, model: Any = None) -> tuple[int, ...]:
    """The tokens that end a text: the tokenizer's, and those of the model's generation configuration.

    Chat models often have several.
    """
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    several = configured if isinstance(configured, list | tuple) else [configured]
    return tuple(dict.fromkeys(int(token) for token in [tokenizer.eos_token_id, *several] if token is not None))


def cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """Cut a text before the first stop string in it; also return whether there is one."""
    starts = [start for start in map(text.find, stop) if start >= 0]
    return (text[: min(starts)], True) if starts else (text, False)


class StoppingCriteria:
    """Says whether texts end, and decodes those that do.

    Args:
        tokenizer: the model's.
        settings: of the generation.
        eos: tokens that end a text.
    """

    def __init__(self, tokenizer: Any, settings: GenerationSettings, eos: Sequence[int]) -> None:
        self.tokenizer, self.settings, self.eos = tokenizer, settings, frozenset(eos)
        # Every token has at least one byte, so no stop string spans more tokens than it has bytes.
        self.tail = max((len(text.encode()) for text in settings.stop), default=0) + MARGIN

    def decode(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """Decode tokens that follow a prompt, uncut, without special tokens."""
        context = list(prompt[-CONTEXT_TOKENS:])
        before, both = self._decode(context), self._decode([*context, *ids])
        return both[len(before) :] if both.startswith(before) else self._decode(ids)

    def finish(self, prompt: Sequence[int], ids: Sequence[int]) -> tuple[str, Ended] | None:
        """Return the text and what ended it, or None if it continues.

        Args:
            prompt: the tokens of the prompt.
            ids: the tokens generated so far, at least one.
        """
        ended: Ended | None = "eos" if ids[-1] in self.eos else None
        if ended is None and len(ids) >= self.settings.max_new_tokens:
            ended = "length"
        stop = self.settings.stop
        # Decoding all of a text after every token is slow; a stop string that is new must be in its last tokens.
        if ended is None and not (stop and cut(self._decode(ids[-self.tail :]), stop)[1]):
            return None
        text, stopped = cut(self.decode(prompt, ids[:-1] if ended == "eos" else ids), stop)
        return (text, "stop") if stopped else (text, ended) if ended else None

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text
