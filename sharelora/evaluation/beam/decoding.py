"""Beam search over prompts in batches: the longest first, padded on the left, as many at once as memory allows.

A prompt's text depends on its batch only by rounding, where two texts score the same to about six digits; with
`--dtype fp64` that does not happen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from sharelora.evaluation.batching import (
    BatchRunner,
    BatchSize,
    Listener,
    context_length,
    evaluating,
    most_rows,
)
from sharelora.evaluation.beam.search import Hypothesis, SearchResult, beam_search
from sharelora.evaluation.beam.settings import BeamSettings, processors
from sharelora.evaluation.beam.tree import can_read_tree
from sharelora.evaluation.generation.decoding import can_continue
from sharelora.evaluation.key_value_cache import PromptReader
from sharelora.evaluation.packed import packed
from sharelora.support.errors import UserError

# Beams of all prompts of a batch together; more are not faster.
MOST_BEAMS = {"cpu": 640, "cuda": 5120}
# Copies of the logits that exist at once.
_LOGITS = 3

# Called after every batch with the best text of each of its prompts, by index.
Keep = Callable[[dict[int, Hypothesis]], None]


@dataclass(frozen=True)
class Decoded:
    """The texts of all prompts, and what they cost.

    Args:
        best: in the order of the prompts.
        prompt_tokens: tokens of all prompts; each was read once.
        beam_tokens: tokens of beams that the model has read; None where an engine does not count them.
        batch_size: the largest batch.
    """

    best: tuple[Hypothesis, ...]
    prompt_tokens: int
    beam_tokens: int | None
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
        model: a causal language model, with or without a PEFT adapter; its mode is not changed.
        prompts: their tokens, at least one each.
        settings: of the search.
        pad_id: the token for padding; it is masked.
        batch_size: prompts at once, or "auto".
        keep: called after every batch with its texts, to put them on disk.
        listener: called after every batch with the finished and all prompts and the tokens read.

    Raises:
        UserError: prompts that leave no room for a text, a bad batch size, too little memory, an impossible setting.
    """
    settings.require_vocabulary(model.config.get_text_config().vocab_size)
    require_room(prompts, settings, context_length(model.config))
    reader, whole, tree = PromptReader(model), False, False
    tokens = max(map(len, prompts), default=1) + settings.eval_len
    beams = most_rows(model.config, model.dtype, reader.device, tokens, _LOGITS * torch.float32.itemsize, MOST_BEAMS)
    size = BatchSize(batch_size, max(1, beams // settings.beam))
    runner: BatchRunner[int, Hypothesis] = BatchRunner(
        size, lambda index: len(prompts[index]), len(prompts), listener, keep
    )

    def step(batch: list[int]) -> None:
        result = search_batch(reader, [prompts[index] for index in batch], settings, pad_id, whole, tree)
        read = sum(len(prompts[index]) for index in batch) + result.tokens
        runner.add(dict(zip(batch, result.best, strict=True)), read)

    with evaluating(model), packed(model, size.most * settings.beam):
        sample = (tuple(max(prompts, key=len, default=())[-6:]) * 6)[:6]
        whole = bool(sample) and not can_continue(reader, sample, shared=False)
        tree = bool(sample) and not whole and can_read_tree(reader, sample)
        runner.run(range(len(prompts)), step)
    best = tuple(runner.results[index] for index in range(len(prompts)))
    prompt_tokens = sum(map(len, prompts))
    return Decoded(best, prompt_tokens, runner.tokens - prompt_tokens, runner.largest)


def require_room(prompts: Sequence[Sequence[int]], settings: BeamSettings, context: int | None) -> None:
    """Refuse prompts without tokens, and those that leave no room for a text.

    Args:
        prompts: their tokens.
        settings: of the search.
        context: most tokens that the model can read; None for no limit.

    Raises:
        UserError: the first of these, with the longest prompt.
    """
    if any(not len(prompt) for prompt in prompts):
        raise UserError("found a prompt without tokens; need at least one; check the data")
    longest = max(map(len, prompts), default=0)
    if context is not None and longest + settings.eval_len > context:
        raise UserError(
            f"found a prompt of {longest} tokens and texts of up to {settings.eval_len}; need both together within the "
            f"model's context of {context}; lower --seq_len or --eval_len"
        )


def search_batch(
    reader: PromptReader,
    prompts: Sequence[Sequence[int]],
    settings: BeamSettings,
    pad_id: int,
    whole: bool = False,
    tree: bool = False,
) -> SearchResult:
    """Search the best text for every prompt of one batch, through transformers' `generate`.

    Args:
        reader: the model.
        prompts, settings, pad_id: see `decode`.
        whole: read all of every beam again for every token, as the model cannot continue from a cache.
        tree: see `beam_search`.
    """
    columns = max(map(len, prompts))
    model, device = reader.model, reader.device
    ids = torch.tensor([[pad_id] * (columns - len(row)) + list(row) for row in prompts], device=device)
    lengths = torch.tensor([len(row) for row in prompts], device=device)
    mask = (torch.arange(columns, device=device) >= columns - lengths[:, None]).long()
    if whole:
        rules = processors(settings, columns)
        return beam_search(model, ids, rules, settings, attention_mask=mask, reader=reader)
    # `num_beams` stays 1: otherwise `generate` copies every prompt before it is read.
    config = GenerationConfig(
        max_new_tokens=settings.eval_len,
        do_sample=False,
        num_beams=1,
        eos_token_id=list(settings.eos_ids),
        pad_token_id=pad_id,
    )
    result: SearchResult = model.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=config,
        logits_processor=processors(settings, columns),
        custom_generate=beam_search,
        search=settings,
        tree=tree,
    )
    return result
