"""The engines' results as their definitions say: one prompt, one text or beam and one token after the other.

Slow and plain: no cache, no batch, no padding, every step taken. The engines are tested against these; only the random
numbers of a generation are the engine's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from sharelora.data.begin import begin_token
from sharelora.evaluation.batching import context_length, evaluating
from sharelora.evaluation.beam.search import Hypothesis
from sharelora.evaluation.beam.settings import BeamSettings
from sharelora.evaluation.generation.sampling import draws, end_tokens
from sharelora.evaluation.generation.settings import Generated, GenerationSettings, Prompt
from sharelora.evaluation.likelihood import answer_tokens
from sharelora.evaluation.multiple_choice import Choice, Scored, choose
from sharelora.evaluation.tokens import Encoded, Ids, Item, common, encode_items, encode_prompts, require_room

Beam = tuple[float, tuple[int, ...]]


def score_one_by_one(model: Any, tokenizer: Any, items: Sequence[Item], begin: Sequence[int] | None = None) -> Scored:
    """Answer multiple choice items one prompt at a time; see `sharelora.evaluation.multiple_choice.score`."""
    encoded = encode_items(tokenizer, items, begin)
    require_room(encoded, context_length(model.config))
    device = model.get_input_embeddings().weight.device
    with evaluating(model), torch.no_grad():
        logits = (model(input_ids=torch.tensor([item.ids], device=device)).logits[0, -1] for item in encoded)
        choices = tuple(choose(row.float(), item.answers) for row, item in zip(logits, encoded, strict=True))
    total = sum(item.length for item in encoded)
    return Scored(choices, total, total, len(encoded), min(1, len(encoded)))


@torch.no_grad()
def score_answers_one_by_one(
    model: Any, tokenizer: Any, items: Sequence[Item], begin: Sequence[int] | None = None
) -> Scored:
    """Answer items of longer answers, each answer behind its whole prompt; see `likelihood.score_answers`."""
    texts = [(item.prefix, item.text) for item in items]
    prompts = [start + rest for start, rest in encode_prompts(tokenizer, texts, begin)]
    rows = [
        [prompt + ids for ids in answer_tokens(tokenizer, item.answers)]
        for item, prompt in zip(items, prompts, strict=True)
    ]
    every = [row for own in rows for row in own]
    require_room([Encoded((), row, ()) for row in every], context_length(model.config))
    with evaluating(model):
        choices = [Choice.best([_likelihood(model, row, common(own)) for row in own]) for own in rows]
    total = sum(map(len, every))
    return Scored(tuple(choices), total, total, len(every), min(1, len(every)))


def _likelihood(model: Any, row: Ids, start: int) -> float:
    """The log-probability of the tokens of a row from an index on."""
    ids = torch.tensor([row], device=model.get_input_embeddings().weight.device)
    log_p = model(input_ids=ids).logits[0, start - 1 : -1].float().log_softmax(-1)
    return float(log_p.gather(-1, ids[0, start:, None]).sum())


@torch.no_grad()
def generate_one_by_one(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    settings: GenerationSettings,
    begin: Sequence[int] | None = None,
) -> list[Generated]:
    """Generate the texts that follow prompts; see `sharelora.evaluation.generation.engine.generate`."""
    start = begin_token(tokenizer) if begin is None else list(begin)
    return [
        _generate(
            model, tokenizer, prompt, settings, draws(settings.seed, prompt.name or str(index), sample, 4096), start
        )
        for index, prompt in enumerate(prompts)
        for sample in range(settings.samples)
    ]


def _generate(
    model: Any,
    tokenizer: Any,
    prompt: Prompt,
    settings: GenerationSettings,
    draws: torch.Tensor,
    start: list[int],
) -> Generated:
    prompt_ids = start + tokenizer(prompt.prefix + prompt.text, add_special_tokens=False)["input_ids"]
    ids: list[int] = []
    device, numbers = model.get_input_embeddings().weight.device, draws.tolist()
    while True:
        logits = model(input_ids=torch.tensor([[*prompt_ids, *ids]], device=device)).logits[0, -1]
        ids.append(_choose(logits.double().tolist(), settings, numbers[len(ids)]))
        ended = ids[-1] in end_tokens(tokenizer, model)
        text = _text(tokenizer, prompt_ids, ids[:-1] if ended else ids)
        stops = [text.index(stop) for stop in settings.stop if stop in text]
        if stops:
            return Generated(text[: min(stops)], len(ids), "stop")
        if ended or len(ids) == settings.max_new_tokens:
            return Generated(text, len(ids), "eos" if ended else "length")


def _text(tokenizer: Any, prompt: list[int], ids: list[int]) -> str:
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    whole: str = tokenizer.decode([*prompt, *ids], **options)
    return whole[len(tokenizer.decode(prompt, **options)) :]


def _choose(logits: list[float], settings: GenerationSettings, number: float) -> int:
    """The first of the likeliest tokens, or the one in whose share of the nucleus the random number falls."""
    ranked = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if settings.temperature == 0:
        return ranked[0]
    probabilities = torch.tensor(logits, dtype=torch.float64).div(settings.temperature).softmax(0).tolist()
    nucleus, total = set(), 0.0
    for token in ranked:
        if total >= settings.top_p:
            break
        nucleus.add(token)
        total += probabilities[token]
    cumulative = 0.0
    for token in sorted(nucleus):
        cumulative += probabilities[token]
        if cumulative > number * total:
            return token
    return max(nucleus)


@torch.no_grad()
def reference_search(model: Any, prompt: list[int], search: BeamSettings) -> Hypothesis:
    """Search the best text for a prompt; see `sharelora.evaluation.beam.decoding.decode`.

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
        for index, (score, ids) in enumerate(beams):
            if ids[-1] in search.eos_ids:
                best = _better(best, score, ids, search)
                beams[index] = (-math.inf, ids)
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
    log_p: list[float] = logits.log_softmax(-1).tolist()
    return log_p


def _banned(ids: tuple[int, ...], size: int) -> set[int]:
    """Tokens that would repeat a sequence of `size` tokens."""
    start = ids[len(ids) - size + 1 :] if size else ()
    indices = range(len(ids) - size + 1) if size else ()
    return {ids[index + size - 1] for index in indices if ids[index : index + size - 1] == start}
