"""What a model can read, as far as data must know: how many tokens a row may have, and which tokens there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sharelora.support.errors import UserError


@dataclass(frozen=True)
class Context:
    """What a model can read; `sharelora.models.context` makes it from a configuration.

    Attributes:
        tokens: most tokens of a row, those that are generated included; None if nothing limits them.
        table: whether positions are entries of a table, beyond which the model fails. Otherwise they are computed
            (RoPE): the model reads on, but has not been trained on such positions.
        vocabulary: how many tokens have an embedding; None if that is not known.
    """

    tokens: int | None = None
    table: bool = False
    vocabulary: int | None = None

    @property
    def most(self) -> int | None:
        """Most tokens of a row that the model does not fail on; None if nothing limits them."""
        return self.tokens if self.table else None

    def too_long(self, length: int) -> bool:
        """Whether a row of so many tokens is longer than the model's positions."""
        return self.tokens is not None and length > self.tokens

    def within(self, limit: int) -> int:
        """Return a limit of tokens, or how many the model does not fail on if they are fewer."""
        return limit if self.most is None else min(limit, self.most)

    def require_embeddings(self, tokenizer: Any, rows: Iterable[Sequence[int]], what: str) -> None:
        """Refuse tokens without an embedding: those that were added to a tokenizer, but never to its model.

        Args:
            tokenizer: names the tokens.
            rows: token ids.
            what: what the rows are, for the message.

        Raises:
            UserError: how many rows have such tokens, and the first of them.
        """
        if self.vocabulary is None:
            return
        beyond = [token for row in rows if len(row) and (token := int(max(row))) >= self.vocabulary]
        if beyond:
            name = tokenizer.convert_ids_to_tokens(beyond[0])
            raise UserError(
                f"{len(beyond):,} of the {what} have tokens without an embedding, first {name!r} with id {beyond[0]}: "
                f"the tokenizer knows {len(tokenizer):,} tokens, the model {self.vocabulary:,}; need the model's own "
                "tokenizer, or a model with resized embeddings; copy its own files there"
            )
