"""Generation as its definition says it: one prompt, one text, one token after the other.

Slow and plain: no cache, no batch, no fill, all decoded again after every token. It is what the engine is tested
against; only the random numbers are the engine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sharelora.evaluation.generation.choosing import draws
from sharelora.evaluation.generation.endings import end_tokens
from sharelora.evaluation.generation.settings import Generated, GenerationSettings, Prompt


@torch.no_grad()
def generate_one_by_one(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], settings: GenerationSettings
) -> list[Generated]:
    """Generate the texts that follow prompts; see `sharelora.evaluation.generation.generate`."""
    return [
        _one(model, tokenizer, prompt, settings, draws(settings.seed, prompt.name or str(place), sample, 4096).tolist())
        for place, prompt in enumerate(prompts)
        for sample in range(settings.samples)
    ]


def _one(
    model: Any, tokenizer: Any, prompt: Prompt, settings: GenerationSettings, numbers: Sequence[float]
) -> Generated:
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    asked = start + tokenizer(prompt.prefix + prompt.text, add_special_tokens=False)["input_ids"]
    ids: list[int] = []
    device = model.get_input_embeddings().weight.device
    while True:
        logits = model(input_ids=torch.tensor([[*asked, *ids]], device=device)).logits[0, -1]
        ids.append(_choose(logits.double().tolist(), settings, numbers[len(ids)]))
        ended = ids[-1] in end_tokens(tokenizer, model)
        text = _text(tokenizer, asked, ids[:-1] if ended else ids)
        places = [text.index(stop) for stop in settings.stop if stop in text]
        if places:
            return Generated(text[: min(places)], len(ids), "stop")
        if ended or len(ids) == settings.max_new_tokens:
            return Generated(text, len(ids), "eos" if ended else "length")


def _text(tokenizer: Any, asked: list[int], ids: list[int]) -> str:
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    whole: str = tokenizer.decode([*asked, *ids], **options)
    return whole[len(tokenizer.decode(asked, **options)) :]


def _choose(logits: list[float], settings: GenerationSettings, number: float) -> int:
    """The first of the likeliest tokens, or the one in whose share of the nucleus the number falls."""
    ranked = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if settings.temperature == 0:
        return ranked[0]
    found = torch.tensor(logits, dtype=torch.float64).div(settings.temperature).softmax(0).tolist()
    nucleus, total = set(), 0.0
    for token in ranked:
        if total >= settings.top_p:
            break
        nucleus.add(token)
        total += found[token]
    reached = 0.0
    for token in sorted(nucleus):
        reached += found[token]
        if reached > number * total:
            return token
    return max(nucleus)
