"""Multiple choice by likelihood where an answer may be several tokens: the sum of their log-probabilities.

What all answers of an item begin with costs each of them the same and is read as part of its prompt. From there on the
answers are a tree: every node, where they branch or continue, is one prompt whose next token is scored. Words such
as answer1 and answer2 branch once, so an item is one prompt for most tokenizers. Sums are not divided by lengths: the
words of one task are equally long, or nearly so. `reference.score_answers_one_by_one` does the same the slow way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sharelora.evaluation.batching import Listener
from sharelora.evaluation.multiple_choice import Choice, Scored, answer
from sharelora.evaluation.tokens import Encoded, Ids, Item, common, encode_prompts, require_room
from sharelora.support.errors import UserError


@dataclass(frozen=True)
class Tree:
    """The answers of an item as a tree of tokens.

    Args:
        nodes: the tokens that lead to each node from the prompt's end, and those that may follow it.
        answers: for each answer, (node, token) by their indices; the log-probabilities there add up to its own.
    """

    nodes: tuple[tuple[Ids, Ids], ...]
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
        for depth in range(same, len(ids)):
            following = options.setdefault(ids[:depth], [])
            if ids[depth] not in following:
                following.append(ids[depth])
    nodes = list(options)
    paths = (
        tuple((nodes.index(ids[:depth]), options[ids[:depth]].index(ids[depth])) for depth in range(same, len(ids)))
        for ids in answers
    )
    return Tree(tuple((path, tuple(tokens)) for path, tokens in options.items()), tuple(paths))


@dataclass(frozen=True)
class Prepared:
    """Items that are ready to be answered.

    Args:
        trees: the answers of each.
        encoded: a prompt for every node of its tree, item by item.
    """

    trees: tuple[Tree, ...]
    encoded: tuple[Encoded, ...]


def prepare_answers(
    tokenizer: Any, items: Sequence[Item], limit: int | None = None, begin: Sequence[int] | None = None
) -> Prepared:
    """Tokenise items, prompts and answers separately as tuning does.

    Args:
        tokenizer: the model's.
        items: the questions; `answers` holds the whole texts that may follow.
        limit: most tokens of a prompt; None for no limit.
        begin: what prompts begin with; by default the begin token, as in training.

    Raises:
        UserError: prompts longer than the limit, or answers that cannot be distinguished.
    """
    by_answers = {
        answers: tree(answer_tokens(tokenizer, answers)) for answers in dict.fromkeys(item.answers for item in items)
    }
    trees = tuple(by_answers[item.answers] for item in items)
    prompts = encode_prompts(tokenizer, [(item.prefix, item.text) for item in items], begin)
    encoded = tuple(
        Encoded(start, rest + path, tokens, item.group)
        for item, branches, (start, rest) in zip(items, trees, prompts, strict=True)
        for path, tokens in branches.nodes
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
    nodes = iter(scored.choices)
    choices = []
    for branches in prepared.trees:
        log_p = [next(nodes).scores for _ in branches.nodes]
        choices.append(Choice.best([sum(log_p[node][token] for node, token in path) for path in branches.answers]))
    return replace(scored, choices=tuple(choices))


def answer_tokens(tokenizer: Any, answers: Sequence[str]) -> list[Ids]:
    """Tokenise answers by themselves, without a start token."""
    return [start + rest for start, rest in encode_prompts(tokenizer, [("", text) for text in answers], begin=())]
