"""Generate texts in batches: the longest prompts first, as many at once as memory allows, a shared beginning read once.

A text does not depend on its batch but for rounding, where two tokens are equally likely to about six digits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from sharelora.evaluation.batching import SHARE_OF_MEMORY, BatchSize, bytes_per_token, free_memory, is_out_of_memory
from sharelora.evaluation.encoding import Encoded, Ids, by_beginning
from sharelora.evaluation.generation.choosing import draws
from sharelora.evaluation.generation.endings import Endings, end_tokens
from sharelora.evaluation.generation.loop import Row, grow
from sharelora.evaluation.generation.prompts import encode, require_room
from sharelora.evaluation.generation.reading import Cached, Reading, Whole, can_continue
from sharelora.evaluation.generation.settings import Ended, Generated, GenerationSettings, Key, Prompt
from sharelora.evaluation.generation.store import TextStore
from sharelora.evaluation.multiple_choice import Listener, context_length, evaluating
from sharelora.evaluation.prefix_cache import PromptReader

logger = logging.getLogger(__name__)

# Texts of a batch; more are not faster.
MOST_ROWS = {"cpu": 64, "cuda": 256}
# Copies of a row's probabilities that exist at once, in 64 bits.
_COPIES = 6


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    settings: GenerationSettings,
    batch_size: int | str = "auto",
    store: TextStore | None = None,
    listener: Listener | None = None,
) -> list[Generated]:
    """Generate texts that follow prompts.

    Args:
        model: a causal language model, with or without a PEFT adapter, plain or quantised; its mode, its gradients and
            the random state are left as they are.
        tokenizer: the model's.
        prompts: what the texts follow.
        settings: of the generation.
        batch_size: texts at once, or "auto".
        store: keeps every text as soon as it has ended; what is in it already is not generated again.
        listener: called after every token with the finished and all texts of this call, and the tokens generated.

    Returns:
        The texts prompt by prompt, the samples of each together.

    Raises:
        UserError: prompts that leave no room for a text, a bad batch size, too little memory, logits that are no
            numbers.
    """
    encoded = encode(tokenizer, prompts)
    require_room(encoded, settings, context_length(model.config))
    run = _Run(model, tokenizer, encoded, [prompt.name for prompt in prompts], settings, batch_size, store, listener)
    with evaluating(model):
        run.finish()
    return [run.found[key] for key in keys(len(prompts), settings)]


def keys(prompts: int, settings: GenerationSettings) -> list[Key]:
    """Every text that is asked for, in the order in which `generate` returns them."""
    return [(place, sample) for place in range(prompts) for sample in range(settings.samples)]


def most_rows(model: Any, settings: GenerationSettings, tokens: int, device: torch.device) -> int:
    """How many texts an estimate allows at once.

    Args:
        tokens: the length of the longest prompt.
        device: where the model is.
    """
    vocabulary = model.config.get_text_config().vocab_size
    row = bytes_per_token(model.config, model.dtype) * (tokens + settings.max_new_tokens)
    row += _COPIES * vocabulary * torch.float64.itemsize
    most = MOST_ROWS.get(device.type, MOST_ROWS["cuda"])
    return max(1, min(most, int(SHARE_OF_MEMORY * free_memory(device) / row)))


def windows(config: Any) -> list[int]:
    """Over how many columns the model's layers see, where some do not see them all."""
    text = config.get_text_config()
    sliding = (
        text.sliding_window if getattr(text, "use_sliding_window", True) and hasattr(text, "sliding_window") else 0
    )
    return [size for size in (sliding, getattr(text, "attention_chunk_size", None)) if size]


class _Run:
    """One pass over prompts."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        encoded: Sequence[Encoded],
        names: Sequence[str],
        settings: GenerationSettings,
        batch_size: int | str,
        store: TextStore | None,
        listener: Listener | None,
    ) -> None:
        self.model, self.encoded, self.names, self.settings = model, encoded, names, settings
        self.store, self.listener = store, listener or (lambda done, total, tokens: None)
        self.endings = Endings(tokenizer, settings, end_tokens(tokenizer, model))
        self.found: dict[Key, Generated] = {} if store is None else dict(store.found)
        self.missing = [key for key in keys(len(encoded), settings) if key not in self.found]
        self.reader = PromptReader(model)
        self.longest = max((item.length for item in encoded), default=1)
        self.size = BatchSize(batch_size, most_rows(model, settings, self.longest, self.reader.device))
        self.tokens = self.done = 0
        self.kept = time.perf_counter()

    def finish(self) -> None:
        if not self.missing:
            return
        self.share, self.cache = self._ways()
        places = list(dict.fromkeys(place for place, _ in self.missing))
        starts = [self.encoded[place].start if self.share else () for place in places]
        self.kept = time.perf_counter()
        for start, members in by_beginning(starts).items():
            mine = {places[member] for member in members}
            self._generate([key for key in self.missing if key[0] in mine], start)

    def _ways(self) -> tuple[bool, bool]:
        """Whether beginnings are read once, and whether the model goes on from a cache at all."""
        sample = (max(self.encoded, key=lambda item: item.length).ids[-6:] * 6)[:6]
        # Rows are filled between the shared beginning and what follows it, which would shift a sliding window.
        most = self.longest + self.settings.max_new_tokens
        wanted = any(item.start for item in self.encoded) and all(most < size for size in windows(self.model.config))
        share = wanted and can_continue(self.reader, sample, shared=True)
        cache = share or can_continue(self.reader, sample, shared=False)
        if not cache:
            logger.info("this model does not go on from a cache: it reads everything again for every token")
        return share, cache

    def _generate(self, waiting: Iterable[Key], start: Ids) -> None:
        prefix = self.reader.prefix(start) if start else None
        # The longest first: if memory is short, that shows at once.
        waiting = sorted(waiting, key=lambda key: (-self.encoded[key[0]].length, key))
        while waiting:
            batch = waiting[: self.size.size]
            try:
                rows = [self._row(key) for key in batch]
                grow(self._reading(batch, prefix, len(start)), rows, self.settings, self.endings, self._step)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self.size.halve()
            else:
                if self.size.auto and len(batch) == self.size.size:
                    self.size.grow()
            waiting = [key for key in waiting if key not in self.found]

    def _row(self, key: Key) -> Row:
        place, sample = key
        settings, name = self.settings, self.names[place] or str(place)
        numbers = None if settings.greedy else draws(settings.seed, name, sample, settings.max_new_tokens)
        return Row(key, self.encoded[place].ids, numbers)

    @torch.no_grad()
    def _reading(self, batch: Sequence[Key], prefix: Any, length: int) -> Reading:
        places = list(dict.fromkeys(place for place, _ in batch))
        texts = [places.index(place) for place, _ in batch]
        prompts = [self.encoded[place] for place in places]
        if not self.cache:
            return Whole(self.reader, [item.ids for item in prompts], texts)
        rows = [item.rest if length else item.ids for item in prompts]
        return Cached(self.reader, rows, texts, self.settings.max_new_tokens - 1, prefix, length)

    def _step(self, ended: dict[Key, tuple[str, int, Ended]], tokens: int) -> None:
        self.tokens += tokens
        if ended:
            self._keep(ended)
        self.listener(self.done, len(self.missing), self.tokens)

    def _keep(self, ended: dict[Key, tuple[str, int, Ended]]) -> None:
        now = time.perf_counter()
        seconds, self.kept = (now - self.kept) / len(ended), now
        new = {key: Generated(*end, seconds) for key, end in ended.items()}
        self.found.update(new)
        self.done += len(new)
        if self.store is not None:
            self.store.add(new)
