"""The beam search as its definition says it, one prompt, one beam and one token after the other.

Slow and plain: no cache, no batch, no padding, every step taken. It is what `search.py` is tested against.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from sharelora.evaluation.beam.search import Hypothesis
from sharelora.evaluation.beam.settings import BeamSettings

Beam = tuple[float, tuple[int, ...]]


@torch.no_grad()
def reference_search(model: Any, prompt: list[int], search: BeamSettings) -> Hypothesis:
    """Search the best text for a prompt.

    Args:
        model: a causal language model in evaluation mode.
        prompt: its tokens.
        search: the settings.
    """
    beams: list[Beam] = [(0.0, ())]
    best: Hypothesis | None = None
    for _ in range(search.eval_len):
        candidates = [
            (score + log_p, (*ids, token))
            for score, ids in beams
            for token, log_p in enumerate(_log_probabilities(model, prompt, ids, search))
        ]
        # Sorting keeps the order of equals: the earlier beam, then the lower token.
        beams = sorted(candidates, key=lambda beam: -beam[0])[: search.beam]
        for place, (score, ids) in enumerate(beams):
            if ids[-1] in search.eos_ids:
                best = _better(best, score, ids, search)
                beams[place] = (-math.inf, ids)
    for score, ids in beams:
        best = _better(best, score, ids, search)
    return best or Hypothesis((), -math.inf)


def _better(best: Hypothesis | None, total: float, ids: tuple[int, ...], search: BeamSettings) -> Hypothesis | None:
    score = total / len(ids) ** search.length_penalty
    won = score > (-math.inf if best is None else best.score)
    return Hypothesis(ids, score) if won else best


def _log_probabilities(model: Any, prompt: list[int], ids: tuple[int, ...], search: BeamSettings) -> list[float]:
    device = model.get_input_embeddings().weight.device
    logits = model(input_ids=torch.tensor([[*prompt, *ids]], device=device)).logits[0, -1].double()
    for token in set(ids):
        logits[token] = logits[token] * search.repetition_penalty ** (1 if logits[token] < 0 else -1)
    if len(ids) < search.min_length:
        logits[list(search.eos_ids)] = -math.inf
    for token in _banned(ids, search.no_repeat_ngram_size):
        logits[token] = -math.inf
    found: list[float] = logits.log_softmax(-1).tolist()
    return found


def _banned(ids: tuple[int, ...], size: int) -> set[int]:
    """Tokens that would repeat a sequence of `size` tokens."""
    start = ids[len(ids) - size + 1 :] if size else ()
    places = range(len(ids) - size + 1) if size else ()
    return {ids[place + size - 1] for place in places if ids[place : place + size - 1] == start}
