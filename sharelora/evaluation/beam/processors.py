"""What is done to the logits before each step, where LoRA's gpt2_beam.py means something else than transformers.

There the history is what has been generated: a prompt's words may come again, and they are not made less likely. And
the logits are changed before they become probabilities, so that what is forbidden leaves its probability to the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from sharelora.evaluation.beam.settings import BeamSettings


class RepetitionPenalty(LogitsProcessor):
    """Makes tokens less likely that were generated before.

    Args:
        penalty: divides positive logits, multiplies negative ones.
        prompt: tokens at the start of a row that do not count.
    """

    def __init__(self, penalty: float, prompt: int) -> None:
        self.penalty, self.prompt = penalty, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Change logits (rows, vocabulary) in place; a token that came several times is penalised once."""
        generated = input_ids[:, self.prompt :]
        found = scores.gather(1, generated)
        return scores.scatter_(1, generated, torch.where(found < 0, found * self.penalty, found / self.penalty))


class MinLength(LogitsProcessor):
    """Forbids end tokens until a text is long enough.

    Args:
        length: tokens that must come before an end token.
        eos_ids: the end tokens.
        prompt: tokens at the start of a row that do not count.
    """

    def __init__(self, length: int, eos_ids: tuple[int, ...], prompt: int) -> None:
        self.length, self.eos_ids, self.prompt = length, list(eos_ids), prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Change logits (rows, vocabulary) in place."""
        if input_ids.shape[1] - self.prompt < self.length:
            scores[:, self.eos_ids] = -torch.inf
        return scores


class NoRepeatedNgram(LogitsProcessor):
    """Forbids tokens that would complete a sequence of n tokens which the text has already.

    Args:
        size: n.
        prompt: tokens at the start of a row that do not count.
    """

    def __init__(self, size: int, prompt: int) -> None:
        self.size, self.prompt = size, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Change logits (rows, vocabulary) in place."""
        generated = input_ids[:, self.prompt :]
        if generated.shape[1] < self.size:
            return scores
        seen = generated.unfold(1, self.size, 1)
        last = generated[:, generated.shape[1] - self.size + 1 :]
        rows, places = (seen[:, :, :-1] == last[:, None]).all(-1).nonzero(as_tuple=True)
        scores[rows, seen[rows, places, -1]] = -torch.inf
        return scores


def processors(settings: BeamSettings, prompt: int) -> LogitsProcessorList:
    """Return the processors that settings ask for, in upstream's order.

    Args:
        settings: of the search.
        prompt: the tokens of a prompt, its padding included.
    """
    found: list[LogitsProcessor] = []
    if settings.repetition_penalty != 1:
        found.append(RepetitionPenalty(settings.repetition_penalty, prompt))
    if settings.min_length:
        found.append(MinLength(settings.min_length, settings.eos_ids, prompt))
    if settings.no_repeat_ngram_size:
        found.append(NoRepeatedNgram(settings.no_repeat_ngram_size, prompt))
    return LogitsProcessorList(found)
