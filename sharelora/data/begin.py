"""The begin token: what every trained row starts with, what a tokenizer writes itself, and what an exam's prompts get.

Training starts every row with the tokenizer's begin token if it has one, also where the tokenizer itself would not
write it (GPT-2's has one and does not). Other programs, lm-eval among them, take what the tokenizer writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

AUTO, ALWAYS, NEVER = CHOICES = ("auto", "always", "never")


def begin_token(tokenizer: Any) -> list[int]:
    """The begin token, as training puts it before every row; empty if the tokenizer has none."""
    return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]


def own_beginning(tokenizer: Any) -> list[int]:
    """The special tokens that the tokenizer itself writes before a text."""
    row = tokenizer("a", return_special_tokens_mask=True)
    marks = row["special_tokens_mask"]
    return list(row["input_ids"][: marks.index(0)]) if 0 in marks else []


def begun(ids: Sequence[int], begin: Sequence[int]) -> list[int]:
    """Begin tokens with certain ones, exactly once: some templates write them themselves."""
    return list(ids) if list(ids[: len(begin)]) == list(begin) else [*begin, *ids]


@dataclass(frozen=True)
class Beginning:
    """What an exam's prompts begin with, and why.

    Args:
        ids: the tokens.
        text: the same as text.
        reason: in a few words.
    """

    ids: tuple[int, ...]
    text: str
    reason: str

    @classmethod
    def choose(cls, tokenizer: Any, bos: str = AUTO, tuned: bool | None = None) -> Beginning:
        """Choose what prompts begin with.

        Args:
            tokenizer: the model's.
            bos: `always` takes the begin token if there is one, `never` takes none, `auto` does as the tuning did or,
                where that is not known, as the tokenizer itself.
            tuned: whether the model was tuned with the begin token; None if that is not known.
        """
        token = begin_token(tokenizer)
        if bos == NEVER:
            ids, reason = [], "--bos never"
        elif bos == ALWAYS:
            ids, reason = token, "--bos always"
        elif tuned is not None:
            ids, reason = token if tuned else [], "as rows do when this project tunes such an adapter"
        else:
            ids, reason = own_beginning(tokenizer), "as the tokenizer writes texts"
        if not token and not ids and bos != NEVER:
            reason = "the tokenizer has no begin token"
        return cls(tuple(ids), "".join(tokenizer.convert_ids_to_tokens(ids)), reason)

    def line(self) -> str:
        """What was done, in one line."""
        return f"  prompts begin with {self.text or 'no special token'} ({self.reason})"

    def to_json(self) -> dict[str, Any]:
        """The same as a part of a result."""
        return {"token": self.text or None, "ids": list(self.ids), "reason": self.reason}
