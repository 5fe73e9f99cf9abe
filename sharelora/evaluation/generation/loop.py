"""The loop over the tokens of a batch: choose, look for ends, let what has ended leave, read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sharelora.evaluation.generation.choosing import choose
from sharelora.evaluation.generation.endings import Endings
from sharelora.evaluation.generation.reading import Reading
from sharelora.evaluation.generation.settings import Ended, GenerationSettings, Key

# Called after every token with what has ended: key -> text, tokens, by what; and how many texts got a token.
Stepped = Callable[[dict[Key, tuple[str, int, Ended]], int], None]


@dataclass
class Row:
    """One text while it grows.

    Args:
        key: its prompt and sample.
        prompt: the tokens of its prompt.
        draws: its random numbers, (max_new_tokens,); None where nothing is drawn.
        ids: its tokens so far.
    """

    key: Key
    prompt: Sequence[int]
    draws: Tensor | None
    ids: list[int] = field(default_factory=list)


@torch.no_grad()
def grow(
    reading: Reading, rows: Sequence[Row], settings: GenerationSettings, endings: Endings, stepped: Stepped
) -> None:
    """Generate the texts of a batch to their ends.

    Args:
        reading: the model, which has read the prompts.
        rows: the texts, in the order in which it reads them.
        settings: of the generation.
        endings: says when a text ends.
        stepped: called after every token.
    """
    live, logits = list(rows), reading.logits
    numbers = _numbers(live, logits.device)
    for step in range(settings.max_new_tokens):
        tokens = choose(logits, settings, None if numbers is None else numbers[:, step])
        for row, token in zip(live, tokens.tolist(), strict=True):
            row.ids.append(token)
        found = [endings.finish(row.prompt, row.ids) for row in live]
        stepped(
            {row.key: (end[0], len(row.ids), end[1]) for row, end in zip(live, found, strict=True) if end}, len(live)
        )
        going = [place for place, end in enumerate(found) if end is None]
        if not going:
            return
        if len(going) < len(live):
            kept = torch.tensor(going)
            live, tokens = [live[place] for place in going], tokens[kept]
            numbers = None if numbers is None else numbers[kept]
            reading.keep(kept)
        logits = reading.read(tokens)


def _numbers(rows: Sequence[Row], device: torch.device) -> Tensor | None:
    """The random numbers of all texts, (rows, max_new_tokens)."""
    found = [row.draws for row in rows if row.draws is not None]
    return torch.stack(found).to(device) if found else None
