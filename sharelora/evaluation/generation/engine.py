"""Generation in batches: the longest prompts first, as many at once as memory allows, a shared beginning read once.

A text depends on its batch only by rounding, where two tokens are equally likely to about six digits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sharelora.evaluation.batching import (
    BatchRunner,
    BatchSize,
    Listener,
    context_length,
    evaluating,
    most_rows,
)
from sharelora.evaluation.generation.decoding import (
    CachedDecoder,
    Decoder,
    Row,
    WholeDecoder,
    can_continue,
    decode_batch,
)
from sharelora.evaluation.generation.sampling import StoppingCriteria, draws, end_tokens
from sharelora.evaluation.generation.settings import (
    Ended,
    Generated,
    GenerationSettings,
    Key,
    Prompt,
    encode,
    require_room,
)
from sharelora.evaluation.key_value_cache import PromptReader
from sharelora.evaluation.store import Store
from sharelora.evaluation.tokens import Encoded, by_beginning
from sharelora.support.reading import OneOf

logger = logging.getLogger(__name__)

FILE = "generations.jsonl"
# Texts of a batch; more are not faster.
MOST_ROWS = {"cpu": 64, "cuda": 256}
# Copies of a row's probabilities that exist at once, in 64 bits.
_COPIES = 6


# A line of the file.
_ROW = {
    **dict.fromkeys(("prompt", "sample", "tokens"), range(1 << 31)),
    **{"text": str, "ended": OneOf(("eos", "stop", "length")), "seconds": float},
}


class TextStore(Store[Key, Generated]):
    """Texts by the index of their prompt and the number of the sample.

    Args:
        folder: of the file.
        settings: everything that decides which texts are generated.
        overwrite: discard texts that are there.

    Raises:
        UserError: the file belongs to other settings, is damaged, or cannot be written.
    """

    shape = _ROW

    def __init__(self, folder: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        super().__init__(folder / FILE, settings, "--output", overwrite)

    def _to_row(self, key: Key, result: Generated) -> dict[str, Any]:
        return {"prompt": key[0], "sample": key[1], **vars(result)}

    def _from_row(self, row: Any) -> tuple[Key, Generated]:
        return (row["prompt"], row["sample"]), Generated(row["text"], row["tokens"], row["ended"], row["seconds"])


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    settings: GenerationSettings,
    batch_size: int | str = "auto",
    store: TextStore | None = None,
    listener: Listener | None = None,
    begin: Sequence[int] | None = None,
) -> list[Generated]:
    """Generate texts that follow prompts.

    Args:
        model: a causal language model, with or without a PEFT adapter, plain or quantised; its mode, its gradients and
            the random state are not changed.
        tokenizer: the model's.
        prompts: what the texts follow.
        settings: of the generation.
        batch_size: texts at once, or "auto".
        store: keeps every text as soon as it has ended; texts that it has already are not generated again.
        listener: called after every token with the finished and all texts of this call, and the tokens generated.
        begin: what prompts begin with; by default the begin token, as in training.

    Returns:
        The texts prompt by prompt, the samples of each together.

    Raises:
        UserError: prompts that leave no room for a text, a bad batch size, too little memory, NaN among the logits.
    """
    encoded = encode(tokenizer, prompts, begin)
    require_room(encoded, settings, context_length(model.config))
    wanted, texts = keys(len(prompts), settings), {} if store is None else dict(store.results)
    missing = [key for key in wanted if key not in texts]
    names = [prompt.name for prompt in prompts]
    generation = _Generation(model, tokenizer, encoded, names, settings, batch_size, store, listener, len(missing))
    if missing:
        with evaluating(model):
            texts |= generation.run(missing)
    return [texts[key] for key in wanted]


def keys(prompts: int, settings: GenerationSettings) -> list[Key]:
    """The keys of all texts, in the order in which `generate` returns them."""
    return [(prompt, sample) for prompt in range(prompts) for sample in range(settings.samples)]


def windows(config: Any) -> list[int]:
    """How many columns the model's layers attend to, where some do not attend to all."""
    text = config.get_text_config()
    sliding = (
        text.sliding_window if getattr(text, "use_sliding_window", True) and hasattr(text, "sliding_window") else 0
    )
    return [size for size in (sliding, getattr(text, "attention_chunk_size", None)) if size]


class _Generation:
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
        total: int,
    ) -> None:
        self.model, self.encoded, self.names, self.settings = model, encoded, names, settings
        self.stopping = StoppingCriteria(tokenizer, settings, end_tokens(tokenizer, model))
        self.reader = PromptReader(model)
        self.longest = max((item.length for item in encoded), default=1)
        most = most_rows(
            model.config,
            model.dtype,
            self.reader.device,
            self.longest + settings.max_new_tokens,
            _COPIES * torch.float64.itemsize,
            MOST_ROWS,
        )
        self.runner: BatchRunner[Key, Generated] = BatchRunner(
            BatchSize(batch_size, most),
            lambda key: encoded[key[0]].length,
            total,
            listener,
            None if store is None else store.add,
        )
        self.last_end = time.perf_counter()

    def run(self, missing: Sequence[Key]) -> dict[Key, Generated]:
        """Generate texts by their keys."""
        self.share_prefix, self.use_cache = self._abilities()
        prompts = list(dict.fromkeys(prompt for prompt, _ in missing))
        starts = [self.encoded[prompt].start if self.share_prefix else () for prompt in prompts]
        self.last_end = time.perf_counter()
        for start, members in by_beginning(starts).items():
            group = {prompts[member] for member in members}
            # The cache has no name here: it must be freed before the next one is made.
            self._run_group(
                [key for key in missing if key[0] in group], self.reader.prefix(start) if start else None, len(start)
            )
        return self.runner.results

    def _abilities(self) -> tuple[bool, bool]:
        """Whether beginnings are read once, and whether the model can continue from a cache."""
        sample = max(self.encoded, key=lambda item: item.length).ids
        # Padding between the shared beginning and the rest would shift a sliding window.
        most = self.longest + self.settings.max_new_tokens
        wanted = any(item.start for item in self.encoded) and all(most < size for size in windows(self.model.config))
        share_prefix = wanted and can_continue(self.reader, sample, shared=True)
        use_cache = share_prefix or can_continue(self.reader, sample, shared=False)
        return share_prefix, use_cache

    def _run_group(self, group: Sequence[Key], prefix: Any, length: int) -> None:
        """Generate the texts behind one cached beginning of some length, or whole prompts where that is 0."""

        def step(batch: list[Key]) -> None:
            rows = [self._row(key) for key in batch]
            decode_batch(self._decoder(batch, prefix, length), rows, self.settings, self.stopping, self._take)

        self.runner.run(sorted(group), step)

    def _row(self, key: Key) -> Row:
        prompt, sample = key
        settings, name = self.settings, self.names[prompt] or str(prompt)
        numbers = None if settings.greedy else draws(settings.seed, name, sample, settings.max_new_tokens)
        return Row(key, self.encoded[prompt].ids, numbers)

    @torch.no_grad()
    def _decoder(self, batch: Sequence[Key], prefix: Any, length: int) -> Decoder:
        indices = list(dict.fromkeys(prompt for prompt, _ in batch))
        texts = [indices.index(prompt) for prompt, _ in batch]
        prompts = [self.encoded[prompt] for prompt in indices]
        if not self.use_cache:
            return WholeDecoder(self.reader, [item.ids for item in prompts], texts)
        rows = [item.rest if length else item.ids for item in prompts]
        return CachedDecoder(self.reader, rows, texts, self.settings.max_new_tokens - 1, prefix, length)

    def _take(self, ended: dict[Key, tuple[str, int, Ended]], tokens: int) -> None:
        """Take the texts that ended with a token, and how many texts got one."""
        new = {}
        if ended:
            now = time.perf_counter()
            seconds, self.last_end = (now - self.last_end) / len(ended), now
            new = {key: Generated(*end, seconds) for key, end in ended.items()}
        self.runner.add(new, tokens)
