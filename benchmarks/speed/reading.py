"""What `prompts.py` times: an engine's work on prompts of random tokens, for a model with or without an adapter."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.speed.timing import Sample, now
from benchmarks.speed.variants import Adapter, attach
from sharelora.evaluation.generation.decoding import CachedDecoder
from sharelora.evaluation.key_value_cache import PromptReader
from sharelora.evaluation.likelihood import Prepared, score_answers, tree
from sharelora.evaluation.multiple_choice import answer
from sharelora.evaluation.tokens import Encoded, Ids

# Spread of B: an adapter that changes a model about as much as a trained one.
_SPREAD = 0.005


@dataclass(frozen=True)
class Texts:
    """Random prompts.

    Args:
        prefix: tokens that all of them begin with.
        prompts: what follows, as many tokens each as a question has.
        vocab: tokens are below this.
    """

    prefix: Ids
    prompts: tuple[Ids, ...]
    vocab: int

    @classmethod
    def draw(cls, vocab: int, prefix: int, count: int, tokens: int, seed: int = 0) -> Texts:
        """Draw so many tokens of a beginning, and so many prompts of about as many tokens."""
        rng = random.Random(seed)

        def ids(length: int) -> Ids:
            return tuple(rng.randrange(3, vocab) for _ in range(length))

        return cls(ids(prefix), tuple(ids(tokens + index) for index in range(count)), vocab)


# Given a model and its texts: get ready, and return what is timed.
Work = Callable[[Any, Texts], Callable[[], Any]]


def choice(model: Any, texts: Texts) -> Callable[[], Any]:
    """Four letters behind a beginning that all questions share."""
    letters = tuple(range(3, 7))
    items = [Encoded(texts.prefix, prompt, letters) for prompt in texts.prompts]
    return lambda: answer(model, items, len(items))


def likelihood(model: Any, texts: Texts) -> Callable[[], Any]:
    """Two answers of three tokens that part at the second."""
    branches = tree([(3, 4, 5), (3, 6, 7)])
    encoded = [Encoded((), prompt + path, tokens) for prompt in texts.prompts for path, tokens in branches.nodes]
    prepared = Prepared((branches,) * len(texts.prompts), tuple(encoded))
    return lambda: score_answers(model, prepared, len(encoded))


def first(model: Any, texts: Texts) -> Callable[[], Any]:
    """The first token of a text behind every prompt."""
    return lambda: _decoder(model, texts, 0)


def following(model: Any, texts: Texts, steps: int = 8) -> Callable[[], Any]:
    """Eight tokens more of each."""

    def run() -> Any:
        decoder = _decoder(model, texts, steps)
        began = _clock(decoder.reader.device)
        with torch.no_grad():
            for token in range(steps):
                decoder.read(torch.full((len(texts.prompts),), 3 + token))
        return _clock(decoder.reader.device) - began

    return run


@torch.no_grad()
def _decoder(model: Any, texts: Texts, steps: int) -> CachedDecoder:
    return CachedDecoder(PromptReader(model), texts.prompts, range(len(texts.prompts)), steps)


def _clock(device: torch.device) -> float:
    """CPU seconds, of which others who use the machine take less than of the clock's; on a GPU the clock's."""
    return now(device) if device.type == "cuda" else time.process_time()


WORK: dict[str, Work] = {
    "choice": choice,
    "likelihood": likelihood,
    "first": first,
    "following": following,
}


class Reading:
    """A model and what it has to do.

    Args:
        model: with or without an adapter.
        work: a key of `WORK`.
        texts: what it reads.
    """

    def __init__(self, model: Any, work: str, texts: Texts) -> None:
        self.model, self.run = model, WORK[work](model, texts)
        self.device = model.get_input_embeddings().weight.device

    def sample(self) -> Sample:
        """Do it once; work that is timed itself returns its seconds."""
        began = _clock(self.device)
        own = self.run()
        seconds = _clock(self.device) - began
        return Sample(own if isinstance(own, float) else seconds, 0.0)


def adapted(model: nn.Module, name: str, rank: int) -> nn.Module:
    """Put a variant's adapters on a model, on all linear modules; see `variants.attach`."""
    model = attach(model, name, Adapter(r=rank)).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for path, value in model.named_parameters():
            if "lora_B" in path:
                value.normal_(std=_SPREAD)
    return model
