"""Prompts as tokens: the beginning that others share, the rest, and the answers of a multiple choice item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharelora.data.begin import begin_token, begun
from sharelora.support.errors import UserError

Ids = tuple[int, ...]
# Prompts tokenised at once: enough for speed, few enough that memory does not grow with the number of prompts.
CHUNK = 256


@dataclass(frozen=True)
class Item:
    """One question as text.

    Args:
        prefix: the beginning of the prompt, worth encoding once if other items have the same.
        text: the rest of the prompt.
        answers: the possible continuations, e.g. `" A"`, with the space that running text would have there.
        group: what the item belongs to, for messages.
    """

    prefix: str
    text: str
    answers: tuple[str, ...]
    group: str = ""


@dataclass(frozen=True)
class Encoded:
    """One prompt as tokens.

    Args:
        start: the tokens of the prefix; empty where the prompt's tokens do not start with them.
        rest: the other tokens of the prompt, at least one.
        answers: the token of each answer at the next position; none where the model writes its own.
        group: as in the item.
    """

    start: Ids
    rest: Ids
    answers: Ids = ()
    group: str = ""

    @property
    def ids(self) -> Ids:
        """The whole prompt."""
        return self.start + self.rest

    @property
    def length(self) -> int:
        """The tokens of the whole prompt."""
        return len(self.start) + len(self.rest)


@dataclass(frozen=True)
class _Ending:
    """How a prompt ends: how many of its tokens to remove, what to put in their place, and the answers' tokens."""

    removed: int
    lead: Ids
    answers: Ids


class _Tokens:
    """Tokenises texts.

    Args:
        tokenizer: a Hugging Face tokenizer; its own special tokens are not added.
        begin: what each begins with, exactly once; None for the begin token, as in training.
    """

    def __init__(self, tokenizer: Any, begin: Sequence[int] | None) -> None:
        self.tokenizer = tokenizer
        self.begin = begin_token(tokenizer) if begin is None else begin

    def __call__(self, texts: Sequence[str]) -> list[Ids]:
        # `verbose` would warn of long texts; callers that need them to fit check that with the model's own limit.
        rows = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [tuple(begun(row, self.begin)) for row in rows]


def encode_prompts(
    tokenizer: Any, prompts: Sequence[tuple[str, str]], begin: Sequence[int] | None = None
) -> list[tuple[Ids, Ids]]:
    """Tokenise prompts that begin alike.

    Args:
        tokenizer: a Hugging Face tokenizer; its own special tokens are not added.
        prompts: the beginning and the rest of each.
        begin: what each begins with, exactly once; by default the begin token, as in training.

    Returns:
        For each the tokens of its beginning, none where the whole does not start with them or the beginning is empty;
        and the other tokens, at least one if there is any text.
    """
    tokens = _Tokens(tokenizer, begin)
    starts = {prefix: tokens([prefix])[0] for prefix in dict.fromkeys(prefix for prefix, _ in prompts)}
    starts[""] = ()  # A start token by itself is not worth a separate pass.
    parts = []
    for first in range(0, len(prompts), CHUNK):
        chunk = prompts[first : first + CHUNK]
        rows = tokens([prefix + text for prefix, text in chunk])
        parts += [_split(starts[prefix], ids) for (prefix, _), ids in zip(chunk, rows, strict=True)]
    return parts


def _split(start: Ids, ids: Ids) -> tuple[Ids, Ids]:
    """Divide a prompt's tokens into those of its prefix and the rest, which is never empty.

    Args:
        start: the tokens of the prefix by itself.
        ids: of the whole prompt.

    Returns:
        `start` and what follows, or () and everything where the prompt does not begin with these tokens.
    """
    if len(start) >= len(ids) or ids[: len(start)] != start:
        start = ()
    return start, ids[len(start) :]


def by_beginning(starts: Sequence[Ids]) -> dict[Ids, list[int]]:
    """Group the indices of prompts by the beginning that they share; `()` for those read whole, which come last.

    A beginning that no other prompt shares is not worth a separate pass.
    """
    groups: dict[Ids, list[int]] = {}
    for index, start in enumerate(starts):
        groups.setdefault(start, []).append(index)
    alone = [start for start, indices in groups.items() if len(indices) == 1 and start]
    whole = [*groups.pop((), []), *(index for start in alone for index in groups.pop(start))]
    return {**groups, **({(): whole} if whole else {})}


def encode_items(tokenizer: Any, items: Sequence[Item], begin: Sequence[int] | None = None) -> list[Encoded]:
    """Tokenise items; every prompt is tokenised whole, so sharing a prefix changes no token.

    Args:
        tokenizer: a Hugging Face tokenizer; its own special tokens are not added.
        items: the questions.
        begin: what each begins with, exactly once; by default the begin token, as in training.

    Raises:
        UserError: an answer is more than one token.
    """
    tokens = _Tokens(tokenizer, begin)
    # Tokens do not span the end of a line, so prompts with the same last line end in the same tokens: one is tried.
    endings = {_ending_key(item): item for item in items}
    follows = {key: _ending(tokens, item) for key, item in endings.items()}
    prompts = encode_prompts(tokenizer, [(item.prefix, item.text) for item in items], begin)
    return [_ended(item, *ids, follows[_ending_key(item)]) for item, ids in zip(items, prompts, strict=True)]


def _ending_key(item: Item) -> tuple[str, tuple[str, ...]]:
    return item.text.rpartition("\n")[2], item.answers


def _ended(item: Item, start: Ids, rest: Ids, ending: _Ending) -> Encoded:
    """Give a prompt its ending; where that reaches into the shared beginning, the prompt shares nothing."""
    if len(rest) <= ending.removed:
        start, rest = (), start + rest
    return Encoded(start, rest[: len(rest) - ending.removed] + ending.lead, ending.answers, item.group)


def _ending(tokens: _Tokens, item: Item) -> _Ending:
    """Find the one token in which each answer differs from the others when it really follows the prompt.

    Some tokenizers write `" A"` as a space and a letter, some join the space with what precedes it. What all answers
    share then becomes part of the prompt: it costs every answer the same, so the choice does not change.

    Raises:
        UserError: an answer takes more than one token.
    """
    text = item.prefix + item.text
    prompt, *continued = tokens([text, *(text + answer for answer in item.answers)])
    same = common(continued)
    if any(len(ids) != same + 1 for ids in continued):
        counts = {answer: len(ids) - same for answer, ids in zip(item.answers, continued, strict=True)}
        raise UserError(
            f"found answers of other than one token, {counts}; need one token for each letter; "
            "use a tokenizer that has the letters"
        )
    unchanged = common([prompt, continued[0][:same]])
    return _Ending(len(prompt) - unchanged, continued[0][unchanged:same], tuple(ids[same] for ids in continued))


def common(rows: Sequence[Ids]) -> int:
    """The number of tokens with which all rows begin."""
    columns = zip(*rows, strict=False)
    return next((index for index, column in enumerate(columns) if len(set(column)) > 1), min(map(len, rows)))


def too_long(encoded: Sequence[Encoded], limit: int | None) -> list[int]:
    """The indices of prompts with more than `limit` tokens; none if there is no limit."""
    return [] if limit is None else [index for index, item in enumerate(encoded) if item.length > limit]


def by_name(names: Iterable[str] | Mapping[str, int]) -> str:
    """Names, or names with their counts, for a message: `anatomy 3, astronomy 1`."""
    return ", ".join(f"{name or 'unnamed'} {count}" for name, count in sorted(Counter(names).items()))


def require_room(
    encoded: Sequence[Encoded], limit: int | None, remedy: str = "use a model with a longer context, or raise the limit"
) -> None:
    """Refuse prompts that are longer than the model's context or another limit; nothing is ever cut.

    Args:
        encoded: the prompts.
        limit: most tokens; None for no limit.
        remedy: what to do, for the message.

    Raises:
        UserError: how many there are, of which groups, and the longest.
    """
    long = [encoded[index] for index in too_long(encoded, limit)]
    if long:
        raise UserError(
            f"found {len(long)} of {len(encoded)} prompts with more than {limit} tokens, the longest "
            f"{max(item.length for item in long)} ({by_name([item.group for item in long])}); need prompts that fit "
            f"whole; {remedy}"
        )
