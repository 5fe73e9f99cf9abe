"""The inputs of a data set as prompts: each distinct one once, and which rows it stands for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.data.nlg import NlgReport
from sharelora.data.nlg.token_files import load_encoded
from sharelora.data.nlg.tokens import Ids, cut_prompts
from sharelora.support.errors import UserError


@dataclass(frozen=True)
class Prompts:
    """What is decoded.

    Args:
        ids: tokens of each distinct input, in the order in which they are first seen.
        rows: the rows of the data set that have it.
        report: what was cut.
    """

    ids: list[Ids]
    rows: list[list[int]]
    report: NlgReport

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells these inputs from others."""
        digest = hashlib.sha256(json.dumps([self.ids, self.rows]).encode())
        return {"inputs": len(self.ids), "inputs_sha256": digest.hexdigest()}

    def first(self, count: int | None) -> Prompts:
        """Some of them only; None for all."""
        return self if count is None else Prompts(self.ids[:count], self.rows[:count], self.report)


def load_prompts(
    tokenizer: Any, data: str, split: str, seq_len: int, eval_len: int, data_root: Path | None = None
) -> Prompts:
    """Read a data set's inputs; its texts, if it has some, are not looked at.

    Args:
        tokenizer: the model's.
        data: name of a set, or a file of text or token ids, see `sharelora.data.nlg.token_files.load_encoded`.
        split: of a set.
        seq_len: most tokens of prompt and text together; a prompt that is too long loses its first tokens.
        eval_len: most tokens of the text.
        data_root: folder of local data.

    Raises:
        UserError: no such data, rows of another form, or no room for a prompt.
    """
    if seq_len - eval_len < 2:
        raise UserError(
            f"found --seq_len {seq_len} and --eval_len {eval_len}; need room for at least 2 tokens of the prompt; "
            "raise --seq_len or lower --eval_len"
        )
    places: dict[tuple[int, ...], list[int]] = {}
    for row, encoded in enumerate(load_encoded(data, split, tokenizer, data_root, need_text=False)):
        places.setdefault(tuple(encoded.context), []).append(row)
    ids, report = cut_prompts([list(context) for context in places], seq_len - eval_len)
    return Prompts(ids, list(places.values()), report)


def end_tokens(tokenizer: Any, given: list[int] | None) -> tuple[int, ...]:
    """The tokens that end a text: the tokenizer's end token and those given.

    Where none is given, also the token of a blank line if there is one, as in LoRA's recipe: {50256, 628} with GPT-2.
    """
    blank = tokenizer.encode("\n\n", add_special_tokens=False)
    others = given if given is not None else blank if len(blank) == 1 else []
    own = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    return tuple(dict.fromkeys([*own, *others]))
