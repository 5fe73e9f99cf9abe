"""Tokens as text, and where a text ends: at an end token, before a stop string, or at the most tokens allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sharelora.evaluation.generation.settings import Ended, GenerationSettings

# Tokens of the prompt that are decoded before a text: some tokenizers take a space from the first token they decode,
# which in code is a wrong indentation.
LEAD = 4
# Tokens looked at besides as many as the longest stop string has bytes.
MARGIN = 4


def end_tokens(tokenizer: Any, model: Any = None) -> tuple[int, ...]:
    """The tokens that end a text: the tokenizer's, and those of the model's generation configuration.

    Models tuned for conversations often have several.
    """
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    several = configured if isinstance(configured, list | tuple) else [configured]
    return tuple(dict.fromkeys(int(token) for token in [tokenizer.eos_token_id, *several] if token is not None))


def cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """Cut a text before the first stop string in it; also return whether there is one."""
    places = [place for place in map(text.find, stop) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


class Endings:
    """Says whether texts end, and makes them.

    Args:
        tokenizer: the model's.
        settings: of the generation.
        eos: tokens that end a text.
    """

    def __init__(self, tokenizer: Any, settings: GenerationSettings, eos: Sequence[int]) -> None:
        self.tokenizer, self.settings, self.eos = tokenizer, settings, frozenset(eos)
        # Every token has at least one byte, so no stop string is spread over more tokens than it has bytes.
        self.tail = max((len(text.encode()) for text in settings.stop), default=0) + MARGIN

    def text(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """The text that tokens stand for where they follow a prompt, uncut, without special tokens."""
        lead = list(prompt[-LEAD:])
        before, both = self._decoded(lead), self._decoded([*lead, *ids])
        return both[len(before) :] if both.startswith(before) else self._decoded(ids)

    def finish(self, prompt: Sequence[int], ids: Sequence[int]) -> tuple[str, Ended] | None:
        """The text and what ended it, or None if it goes on.

        Args:
            prompt: the tokens of the prompt.
            ids: the tokens generated so far, at least one.
        """
        ended: Ended | None = "eos" if ids[-1] in self.eos else None
        if ended is None and len(ids) >= self.settings.max_new_tokens:
            ended = "length"
        # Only the end of the text can hold a stop string that was not there before; decoding it all is slow.
        if ended is None and not self._may_stop(ids):
            return None
        text, stopped = cut(self.text(prompt, ids[:-1] if ended == "eos" else ids), self.settings.stop)
        return (text, "stop") if stopped else (text, ended) if ended else None

    def _may_stop(self, ids: Sequence[int]) -> bool:
        stop = self.settings.stop
        return bool(stop) and cut(self._decoded(ids[-self.tail :]), stop)[1]

    def _decoded(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text
