"""Measure how similar the layers of a model are on a sample of texts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharelora.data.sample import Sample
from sharelora.errors import UserError
from sharelora.evaluation.progress import Progress
from sharelora.similarity.layers import layer_states
from sharelora.similarity.measures import average
from sharelora.similarity.result import Similarity, shape_of
from sharelora.training.glue.encoders import most_tokens

logger = logging.getLogger(__name__)

MAX_LENGTH = 512
# With one token the last is the first, whose state hardly depends on the text.
_LEAST_TOKENS = 2

Ids = list[int]


def encode(tokenizer: Any, sample: Sample, max_length: int) -> list[Ids]:
    """Tokenise texts with the tokenizer's own special tokens; what is too long is cut at its end, and counted.

    Args:
        tokenizer: the model's.
        sample: the texts.
        max_length: most tokens of a text, special ones included.

    Raises:
        UserError: no text has two tokens beside special ones.
    """
    rows = tokenizer(list(sample.texts), return_special_tokens_mask=True, verbose=False)
    own = [mask.count(0) for mask in rows["special_tokens_mask"]]
    kept = [ids for ids, count in zip(rows["input_ids"], own, strict=True) if count >= _LEAST_TOKENS]
    if not kept:
        raise UserError(
            f"found {len(own)} texts in {sample.origin}, the longest with {max(own)} token; need texts of at least "
            f"{_LEAST_TOKENS}; give another sample"
        )
    cut = sum(len(ids) > max_length for ids in kept)
    if len(kept) < len(own):
        logger.info("note: %d of %d texts have fewer than %d tokens", len(own) - len(kept), len(own), _LEAST_TOKENS)
    if cut:
        logger.info("note: %d of %d texts are cut to %d tokens", cut, len(kept), max_length)
    return [ids[:max_length] for ids in kept]


def batches(rows: Sequence[Ids], size: int, padding: int, progress: Progress) -> Iterator[dict[str, Tensor]]:
    """Give texts of similar length together, filled up at their ends.

    Args:
        rows: tokens of each text.
        size: texts at once.
        padding: token to fill up with; it is masked.
        progress: told after every batch.
    """
    ordered = sorted(rows, key=len, reverse=True)  # what takes most memory comes first
    tokens = 0
    for first in range(0, len(ordered), size):
        chunk = ordered[first : first + size]
        longest = len(chunk[0])
        ids = [row + [padding] * (longest - len(row)) for row in chunk]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in chunk]
        yield {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        tokens += sum(map(len, chunk))
        progress(first + len(chunk), len(ordered), tokens)


def measure(
    model: Any,
    tokenizer: Any,
    sample: Sample,
    name: str,
    max_length: int = MAX_LENGTH,
    batch_size: int = 8,
) -> Similarity:
    """Measure a model.

    Args:
        model: of transformers, on any devices, quantised or not.
        tokenizer: its own.
        sample: the texts.
        name: the model's, or its folder; see `model_name`.
        max_length: most tokens of a text.
        batch_size: texts at once; the result does not depend on it beyond rounding.

    Raises:
        UserError: texts of one token, or a model without a stack of layers.
    """
    limits = [max_length, most_tokens(model.config)]
    rows = encode(tokenizer, sample, min(limit for limit in limits if limit is not None))
    fed = batches(rows, batch_size, tokenizer.pad_token_id, Progress("similarity"))
    return compare_layers(model, fed, sample, name, len(rows), max_length)


def compare_layers(
    model: Any, fed: Iterable[dict[str, Tensor]], sample: Any, name: str, texts: int, max_length: int
) -> Similarity:
    """Average the similarities of a model's layers over batches of any kind.

    Args:
        model: of transformers.
        fed: the batches, as the model takes them.
        sample: what they were made of: its `origin` and `digest` are kept.
        name: the model's, or its folder.
        texts: how many parts of the sample the batches hold.
        max_length: most tokens of a part.

    Raises:
        UserError: a model without a stack of layers.
    """
    between, through = average(layer_states(model, fed)).results()
    return Similarity(
        model=model_name(name),
        shape=shape_of(model.config),
        sample=sample.origin,
        digest=sample.digest,
        texts=texts,
        max_length=max_length,
        between=between,
        through=through,
    )


def model_name(place: str) -> str:
    """Return a model's name without its owner: the last part of a folder or hub id, also for the hub's cache."""
    folder = Path(place)
    # .../models--owner--name/snapshots/commit
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.rpartition("--")[2]
    return folder.name


def load_any(place: str, trust_remote_code: bool = False, **options: Any) -> Any:
    """Load a model whose layers can be compared: a language model, or an encoder without its head.

    Args:
        place: folder or hub id.
        trust_remote_code: see `load_base`, as the others.
        options: of `load_base`.

    Raises:
        UserError: see `load_base`.
    """
    from transformers import AutoModel, AutoModelForCausalLM

    from sharelora.architectures import is_encoder, model_config
    from sharelora.models import load_base

    encoder = is_encoder(model_config(place, trust_remote_code))
    auto_class = AutoModel if encoder else AutoModelForCausalLM
    return load_base(place, trust_remote_code=trust_remote_code, auto_class=auto_class, **options)
