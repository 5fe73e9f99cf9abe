"""A tokenizer of whole words, as far as reading predictions needs one."""

from __future__ import annotations

from collections.abc import Sequence


class Words:
    """Ids are the places of words in a text; the first ends a text, `paragraph` stands for an empty line."""

    def __init__(self, text: str) -> None:
        self.words = text.split()
        self.eos_token, self.eos_token_id = self.words[0], 0

    def __len__(self) -> int:
        return len(self.words)

    def decode(self, ids: Sequence[int], **options: object) -> str:
        """Join the words."""
        return " ".join(self.words[value] for value in ids).replace("paragraph", "\n\n")
