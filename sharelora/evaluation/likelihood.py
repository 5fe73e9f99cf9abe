"""Multiple choice by likelihood where an answer may be several tokens: the sum of their log-probabilities.

What all answers of an item begin with costs each of them the same and is read as part of its prompt. From there on the
answers are a tree: every place at which they part, or go on, is one prompt whose next token is looked at. Words such as
answer1 and answer2 part once, so an item is one prompt for most tokenizers. Sums are not divided by lengths: the words
of one task are equally long, or nearly so. `score_answers_one_by_one` does the same the slow way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sharelora.evaluation.encoding import Encoded, Ids, Item, common, encode_prompts, require_room
from sharelora.evaluation.multiple_choice import Choice, Listener, Scored, answer, context_length, evaluating
from sharelora.support.errors import UserError


@dataclass(frozen=True)
class Tree:
    """The answers of an item, as steps from token to token.

    Args:
        steps: what stands behind the prompt, and the tokens that may follow; one for each place to look at.
        answers: for each answer, (step, token) by their indices; the log-probabilities there add up to its own.
    """

    steps: tuple[tuple[Ids, Ids], ...]
    answers: tuple[tuple[tuple[int, int], ...], ...]


def tree(answers: Sequence[Ids]) -> Tree:
    """Make a tree of answers.

    Args:
        answers: the tokens of each.

    Raises:
        UserError: an answer is the beginning of another, so it could never be the less likely one.
    """
    for one in answers:
        if sum(other[: len(one)] == one for other in answers) > 1:
            raise UserError(
                "found an answer whose tokens begin another answer's; need answers that differ; "
                "use a tokenizer that has their characters"
            )
    same = common(answers)
    options: dict[Ids, list[int]] = {}
    for ids in answers:
        for place in range(same, len(ids)):
            known = options.setdefault(ids[:place], [])
            if ids[place] not in known:
                known.append(ids[place])
    order = list(options)
    paths = (
        tuple((order.index(ids[:place]), options[ids[:place]].index(ids[place])) for place in range(same, len(ids)))
        for ids in answers
    )
    return Tree(tuple((path, tuple(tokens)) for path, tokens in options.items()), tuple(paths))


@dataclass(frozen=True)
class Prepared:
    """Items that are ready to be answered.

    Args:
        trees: the answers of each.
        encoded: every prompt whose next token is looked at, item by item.
    """

    trees: tuple[Tree, ...]
    encoded: tuple[Encoded, ...]


def prepare_answers(tokenizer: Any, items: Sequence[Item], limit: int | None = None) -> Prepared:
    """Tokenise items; prompts and answers each by itself, as they are in tuning.

    Args:
        tokenizer: the model's.
        items: the questions; `answers` holds the whole texts that may follow.
        limit: most tokens of a prompt; None for no limit.

    Raises:
        UserError: prompts longer than the limit, or answers that cannot be told apart.
    """
    known = {answers: tree(_tokens(tokenizer, answers)) for answers in dict.fromkeys(item.answers for item in items)}
    trees = tuple(known[item.answers] for item in items)
    prompts = encode_prompts(tokenizer, [(item.prefix, item.text) for item in items])
    encoded = tuple(
        Encoded(start, rest + path, tokens, item.group)
        for item, made, (start, rest) in zip(items, trees, prompts, strict=True)
        for path, tokens in made.steps
    )
    require_room(encoded, limit)
    return Prepared(trees, encoded)


def score_answers(
    model: Any,
    prepared: Prepared,
    batch_size: int | str = "auto",
    share_prefix: bool = True,
    listener: Listener | None = None,
) -> Scored:
    """Answer items by the likelihood of whole answers.

    Args:
        model, batch_size, share_prefix, listener: see `sharelora.evaluation.multiple_choice.answer`.
        prepared: the questions.

    Returns:
        A score for each answer: its log-probability, less that of what all answers of the item begin with.

    Raises:
        UserError: prompts longer than the context, a bad batch size, too little memory.
    """
    scored = answer(model, prepared.encoded, batch_size, share_prefix, listener)
    waiting = iter(scored.choices)
    found = []
    for made in prepared.trees:
        parts = [next(waiting).scores for _ in made.steps]
        found.append(_best([sum(parts[step][token] for step, token in path) for path in made.answers]))
    return replace(scored, choices=tuple(found))


def _tokens(tokenizer: Any, answers: Sequence[str]) -> list[Ids]:
    return [start + rest for start, rest in encode_prompts(tokenizer, [("", text) for text in answers], bos=False)]


def _best(scores: Sequence[float]) -> Choice:
    return Choice(scores.index(max(scores)), tuple(scores))


@torch.no_grad()
def score_answers_one_by_one(model: Any, tokenizer: Any, items: Sequence[Item]) -> Scored:
    """Answer items the plain way: every answer behind its whole prompt, alone.

    The slow reference of `score_answers`.
    """
    prompts = [start + rest for start, rest in encode_prompts(tokenizer, [(item.prefix, item.text) for item in items])]
    rows = [
        [prompt + ids for ids in _tokens(tokenizer, item.answers)] for item, prompt in zip(items, prompts, strict=True)
    ]
    every = [row for own in rows for row in own]
    require_room([Encoded((), row, ()) for row in every], context_length(model.config))
    with evaluating(model):
        found = [_best([_likelihood(model, row, common(own)) for row in own]) for own in rows]
    total = sum(map(len, every))
    return Scored(tuple(found), total, total, len(every), min(1, len(every)))


def _likelihood(model: Any, row: Ids, start: int) -> float:
    """The log-probability of the tokens of a row from a place on."""
    ids = torch.tensor([row], device=model.get_input_embeddings().weight.device)
    log_p = model(input_ids=ids).logits[0, start - 1 : -1].float().log_softmax(-1)
    return float(log_p.gather(-1, ids[0, start:, None]).sum())
