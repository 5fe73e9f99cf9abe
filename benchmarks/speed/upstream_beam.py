"""Beam search as LoRA's gpt2_beam.py does it, row by row: the same texts as ours, with upstream's amount of work.

The prompt is filled on the right up to `seq_len` and repeated `beam` times; all of these rows are read, and logits are
computed at every position; keys and values keep all columns, new ones are written at the row's own position, and all of
them are copied when beams are reordered; every search takes all steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from sharelora.evaluation.beam.search import Hypothesis
from sharelora.evaluation.beam.settings import BeamSettings

_FILL = 0


class _FullLayer(DynamicLayer):
    """Keys and values of all columns; the next one is written behind the prompt, over what it was filled with."""

    keys: Any
    values: Any

    def __init__(self, keys: Tensor, values: Tensor, prompt: int) -> None:
        super().__init__()
        self.keys, self.values, self.length = keys, values, prompt
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        self.keys[:, :, self.length] = key_states[:, :, 0]
        self.values[:, :, self.length] = value_states[:, :, 0]
        self.length += 1
        return self.keys, self.values

    def get_seq_length(self, *args: Any) -> int:
        return self.length

    def get_mask_sizes(self, *args: Any) -> tuple[int, int]:
        return self.keys.shape[-2], 0


@torch.no_grad()
def upstream_search(model: Any, prompt: Sequence[int], search: BeamSettings, seq_len: int) -> Hypothesis:
    """Search the best text for one prompt.

    Args:
        model: a causal language model in evaluation mode.
        prompt: its tokens, no more than `seq_len - search.eval_len`.
        search: the settings.
        seq_len: columns.
    """
    device, beam = model.get_input_embeddings().weight.device, search.beam
    row = torch.tensor([*prompt, *[_FILL] * (seq_len - len(prompt))], device=device)
    output = model(input_ids=row.repeat(beam, 1), use_cache=True)
    layers: list[Any] = [_FullLayer(layer.keys, layer.values, len(prompt)) for layer in output.past_key_values.layers]
    cache, logits = Cache(layers=layers), output.logits[:, len(prompt) - 1]
    scores, history = torch.zeros(beam, device=device), torch.zeros(beam, 0, dtype=torch.long, device=device)
    best = Hypothesis((), -math.inf)
    for step in range(search.eval_len):
        log_p = _penalised(logits.float(), history, search).softmax(-1).log()
        totals = (log_p[:1] if step == 0 else scores[:, None] + log_p).flatten()
        scores, best_ids = totals.topk(beam)
        parents, tokens = best_ids // log_p.shape[1], best_ids % log_p.shape[1]
        for layer in layers:
            layer.keys, layer.values = layer.keys.index_select(0, parents), layer.values.index_select(0, parents)
        history = torch.cat((history[parents], tokens[:, None]), dim=1)
        ended = torch.isin(tokens, torch.tensor(search.eos_ids, device=device))
        best = _better(best, scores.masked_fill(~ended, -math.inf), history, search)
        scores = scores.masked_fill(ended, -math.inf)
        # Upstream reads the last token too, though nothing follows it.
        mask = (torch.arange(seq_len, device=device) <= len(prompt) + step).long().expand(beam, -1)
        options = {"attention_mask": mask, "past_key_values": cache, "use_cache": True}
        logits = model(input_ids=tokens[:, None], **options).logits[:, -1]
    return _better(best, scores, history, search)


def _better(best: Hypothesis, totals: Tensor, history: Tensor, search: BeamSettings) -> Hypothesis:
    scores = totals / history.shape[1] ** search.length_penalty
    row = int(scores.argmax())
    score = float(scores[row])
    return Hypothesis(tuple(history[row].tolist()), score) if score > best.score else best


def _penalised(logits: Tensor, history: Tensor, search: BeamSettings) -> Tensor:
    """Change logits row by row and token by token, as upstream does."""
    logits = logits.clone()
    for row, ids in enumerate(history.tolist()):
        for token in set(ids) if search.repetition_penalty != 1 else ():
            logit = logits[row, token]
            logits[row, token] = logit * search.repetition_penalty ** (1 if logit < 0 else -1)
        logits[row, _banned(ids, search.no_repeat_ngram_size)] = -math.inf
    if history.shape[1] < search.min_length:
        logits[:, list(search.eos_ids)] = -math.inf
    return logits


def _banned(ids: Sequence[int], size: int) -> list[int]:
    if not size or len(ids) < size:
        return []
    grams: dict[tuple[int, ...], list[int]] = {}
    for start in range(len(ids) - size + 1):
        grams.setdefault(tuple(ids[start : start + size - 1]), []).append(ids[start + size - 1])
    return grams.get(tuple(ids[len(ids) - size + 1 :]), [])
