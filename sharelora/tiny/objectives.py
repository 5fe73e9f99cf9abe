"""The training of a tiny model: its recipe, and its objective, the next token or the masked ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from sharelora.data.token_rows import IGNORED
from sharelora.tiny.text import Document


@dataclass(frozen=True)
class Recipe:
    """How a tiny model is trained.

    Args:
        steps: optimizer steps.
        rows: rows per step.
        length: tokens per row; at most that many where rows are single documents.
        learning_rate: the highest; it warms up and falls linearly over the last part.
        warmup: steps of warming up.
        decay: the part of all steps over which the learning rate falls.
        vocabulary: the tokenizer's largest size.
        samples: documents that the tokenizer is made from.
    """

    steps: int = 240
    rows: int = 8
    length: int = 192
    learning_rate: float = 3e-3
    warmup: int = 20
    decay: float = 0.4
    vocabulary: int = 1024
    samples: int = 2000


Loss = Callable[[PreTrainedModel], Tensor]
Objective = Callable[[PreTrainedTokenizerFast, Iterator[Document], Recipe], Loss]

# The share of tokens to be found, and of these the shares that are masked and replaced by any other. BERT's 15 % and
# 80/10/10 are for long training; a model that trains for a minute learns more from more, and comparing two sentences
# is learnt only from replaced tokens.
CHOSEN, MASKED, REPLACED = 0.3, 0.5, 0.4


def next_token(tokenizer: PreTrainedTokenizerFast, documents: Iterator[Document], recipe: Recipe) -> Loss:
    """Read documents one after the other, in rows of fixed length, and predict each next token."""
    stream = _tokens(tokenizer, documents)

    def loss(model: PreTrainedModel) -> Tensor:
        count = recipe.rows * (recipe.length + 1)
        ids = torch.tensor(list(itertools.islice(stream, count))).view(recipe.rows, recipe.length + 1)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    return loss


def _tokens(tokenizer: PreTrainedTokenizerFast, documents: Iterator[Document]) -> Iterator[int]:
    """The tokens of documents one after the other, each between start and end token."""
    for document in documents:
        yield tokenizer.bos_token_id
        for piece in document:
            yield from tokenizer.encode(piece, add_special_tokens=False)
        yield tokenizer.eos_token_id


def next_token_of_rows(tokenizer: PreTrainedTokenizerFast, documents: Iterator[Document], recipe: Recipe) -> Loss:
    """Read documents of one or two texts, a row each as in tuning, and predict each next token.

    Every text ends with the end token. With the same places in every row a model learns to copy from the first text to
    the second within a minute; in a stream of documents it does not.
    """

    def loss(model: PreTrainedModel) -> Tensor:
        rows = [_ended(tokenizer, document)[: recipe.length] for document in itertools.islice(documents, recipe.rows)]
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[tokenizer.eos_token_id] * (longest - len(row))] for row in rows])
        labels = torch.tensor([[*row, *[IGNORED] * (longest - len(row))] for row in rows])
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)

    return loss


def _ended(tokenizer: PreTrainedTokenizerFast, document: Document) -> list[int]:
    texts = (tokenizer.encode(text, add_special_tokens=False) for text in document)
    return [token for ids in texts for token in (*ids, tokenizer.eos_token_id)]


def masked_token(tokenizer: PreTrainedTokenizerFast, documents: Iterator[Document], recipe: Recipe) -> Loss:
    """Read documents of one or two texts, a row each as in tuning, and predict masked and replaced tokens."""

    def loss(model: PreTrainedModel) -> Tensor:
        batch = _rows(tokenizer, list(itertools.islice(documents, recipe.rows)), recipe.length)
        ids, labels = hide(batch["input_ids"], tokenizer)
        return model(input_ids=ids, attention_mask=batch["attention_mask"], labels=labels).loss

    return loss


def _rows(tokenizer: PreTrainedTokenizerFast, batch: list[Document], length: int) -> dict[str, Tensor]:
    rows = [tokenizer(*document, truncation=True, max_length=length) for document in batch]
    return dict(tokenizer.pad(rows, return_tensors="pt"))


def hide(ids: Tensor, tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Hide some of a batch's tokens, never a special one.

    Args:
        ids: token ids, shape (B, T).
        tokenizer: says which tokens are special.

    Returns:
        The ids with masked and replaced tokens, and the original tokens: -100 where nothing was hidden.
    """
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    chosen = (torch.rand(ids.shape) < CHOSEN) & ~special
    kind = torch.rand(ids.shape)
    shown = torch.where(chosen & (kind < MASKED), tokenizer.mask_token_id, ids)
    # Taken from the batch itself, so that the rare tokens are not what gives a replacement away.
    others = ids[~special]
    any_other = others[torch.randint(len(others), ids.shape)]
    shown = torch.where(chosen & (kind >= MASKED) & (kind < MASKED + REPLACED), any_other, shown)
    return shown, torch.where(chosen, ids, IGNORED)
