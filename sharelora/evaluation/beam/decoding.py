"""Decode prompts in batches: the longest first, filled on the left, as many at once as memory allows.

A prompt's text does not depend on its batch but for rounding, where two texts score the same to about six digits; in 64
bits (`--dtype fp64`) that is out of reach.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from sharelora.evaluation.batching import SHARE_OF_MEMORY, BatchSize, bytes_per_token, free_memory, is_out_of_memory
from sharelora.evaluation.beam.processors import processors
from sharelora.evaluation.beam.search import Found, Hypothesis, beam_search
from sharelora.evaluation.beam.settings import BeamSettings
from sharelora.evaluation.multiple_choice import Listener, context_length, evaluating
from sharelora.support.errors import UserError

# Beams of all prompts of a batch together; more are not faster.
MOST_BEAMS = {"cpu": 320, "cuda": 5120}
# Copies of the logits that exist at once.
_LOGITS = 3

# Called after every batch with the place of each of its prompts and the text found.
Keep = Callable[[dict[int, Hypothesis]], None]


@dataclass(frozen=True)
class Decoded:
    """The texts for all prompts, and what they cost.

    Args:
        best: in the order of the prompts.
        prompt_tokens: tokens of all prompts; each was read once.
        beam_tokens: tokens of beams that the model has read.
        batch_size: the most prompts at once.
    """

    best: tuple[Hypothesis, ...]
    prompt_tokens: int
    beam_tokens: int
    batch_size: int


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    settings: BeamSettings,
    pad_id: int,
    batch_size: int | str = "auto",
    keep: Keep | None = None,
    listener: Listener | None = None,
) -> Decoded:
    """Search the best text for every prompt.

    Args:
        model: a causal language model, with or without a PEFT adapter; its mode is left as it is.
        prompts: their tokens, at least one each.
        settings: of the search.
        pad_id: a token to fill with; it is masked.
        batch_size: prompts at once, or "auto".
        keep: called after every batch with what was found, so that it can be stored.
        listener: called after every batch with the finished and all prompts and the tokens read.

    Raises:
        UserError: prompts that leave no room for a text, a bad batch size, too little memory, an impossible setting.
    """
    settings.require_vocabulary(model.config.get_text_config().vocab_size)
    _require_room(prompts, settings, context_length(model.config))
    with evaluating(model):
        return _Run(model, prompts, settings, pad_id, batch_size, keep, listener).finish()


def _require_room(prompts: Sequence[Sequence[int]], settings: BeamSettings, context: int | None) -> None:
    if any(not len(prompt) for prompt in prompts):
        raise UserError("found a prompt without tokens; need at least one; check the data")
    longest = max(map(len, prompts), default=0)
    if context is not None and longest + settings.eval_len > context:
        raise UserError(
            f"found a prompt of {longest} tokens and texts of up to {settings.eval_len}; need both together within the "
            f"model's context of {context}; lower --seq_len or --eval_len"
        )


def most_prompts(model: Any, settings: BeamSettings, tokens: int, device: torch.device) -> int:
    """How many prompts an estimate allows at once.

    Args:
        tokens: the length of the longest prompt.
        device: where the model is.
    """
    vocabulary = model.config.get_text_config().vocab_size
    row = bytes_per_token(model.config, model.dtype) * (tokens + settings.eval_len)
    row += _LOGITS * vocabulary * torch.float32.itemsize
    by_memory = SHARE_OF_MEMORY * free_memory(device) / (row * settings.beam)
    by_speed = MOST_BEAMS.get(device.type, MOST_BEAMS["cuda"]) / settings.beam
    return max(1, int(min(by_memory, by_speed)))


def search_batch(model: Any, prompts: Sequence[Sequence[int]], settings: BeamSettings, pad_id: int) -> Found:
    """Search the best text for every prompt of one batch, through transformers' `generate`."""
    columns = max(map(len, prompts))
    device = model.get_input_embeddings().weight.device
    ids = torch.tensor([[pad_id] * (columns - len(row)) + list(row) for row in prompts], device=device)
    lengths = torch.tensor([len(row) for row in prompts], device=device)
    mask = torch.arange(columns, device=device) >= columns - lengths[:, None]
    # `num_beams` stays 1: `generate` would copy every prompt before it is read.
    config = GenerationConfig(
        max_new_tokens=settings.eval_len,
        do_sample=False,
        num_beams=1,
        eos_token_id=list(settings.eos_ids),
        pad_token_id=pad_id,
    )
    found: Found = model.generate(
        input_ids=ids,
        attention_mask=mask.long(),
        generation_config=config,
        logits_processor=processors(settings, columns),
        custom_generate=beam_search,
        search=settings,
    )
    return found


class _Run:
    """One pass over prompts."""

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        settings: BeamSettings,
        pad_id: int,
        batch_size: int | str,
        keep: Keep | None,
        listener: Listener | None,
    ) -> None:
        self.model, self.prompts, self.settings, self.pad_id = model, prompts, settings, pad_id
        self.keep, self.listener = keep or (lambda found: None), listener or (lambda done, total, tokens: None)
        device = model.get_input_embeddings().weight.device
        longest = max(map(len, prompts), default=1)
        self.size = BatchSize(batch_size, most_prompts(model, settings, longest, device))
        self.best: dict[int, Hypothesis] = {}
        self.prompt_tokens = self.beam_tokens = self.largest = 0

    def finish(self) -> Decoded:
        # The longest first: if memory is short, that shows at once.
        waiting = sorted(range(len(self.prompts)), key=lambda index: -len(self.prompts[index]))
        while waiting:
            batch = waiting[: self.size.size]
            try:
                found = search_batch(self.model, [self.prompts[i] for i in batch], self.settings, self.pad_id)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self.size.halve()
                continue
            self._count(batch, found)
            waiting = waiting[len(batch) :]
        best = tuple(self.best[index] for index in range(len(self.prompts)))
        return Decoded(best, self.prompt_tokens, self.beam_tokens, self.largest)

    def _count(self, batch: Sequence[int], found: Found) -> None:
        new = dict(zip(batch, found.best, strict=True))
        self.best.update(new)
        self.prompt_tokens += sum(len(self.prompts[index]) for index in batch)
        self.beam_tokens += found.tokens
        self.largest = max(self.largest, len(batch))
        if self.size.auto and len(batch) == self.size.size:
            self.size.grow()
        self.keep(new)
        self.listener(len(self.best), len(self.prompts), self.prompt_tokens + self.beam_tokens)
