"""Rows as tokens: the input, a separator, the text after a space, and the separator again as its end.

GPT-2 has one special token (50256), which separates and ends in LoRA's recipe. Other vocabularies number it otherwise,
so it is always the tokenizer's own end token. A row that is too long loses the last tokens of its text, never its end
token (LoRA cuts that off too); an input that is too long loses its first tokens, as LoRA's does when it decodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sharelora.data.nlg.records import Record
from sharelora.data.token_rows import TokenRows
from sharelora.data.tokenise import Ids, token_ids
from sharelora.support.errors import UserError

# What counts in the loss: the text with its end, or every token but the first.
OBJECTIVES = ("clm", "jlm")


@dataclass(frozen=True)
class Encoded:
    """A row as tokens.

    Args:
        context: the input, followed by the separator.
        completion: the text with its end token; empty for a row without a text.
    """

    context: Ids
    completion: Ids


@dataclass(frozen=True)
class NlgReport:
    """What was cut, lengths in tokens.

    Args:
        split: which rows.
        rows: how many.
        limit: most tokens of a row, or of an input for decoding.
        cut: rows that lost tokens.
        longest: the longest before any cut.
        what: what was lost.
        example: one that was cut.
    """

    split: str
    rows: int
    limit: int
    cut: int
    longest: int
    what: str
    example: str = ""

    @classmethod
    def of(cls, split: str, lengths: Sequence[int], limit: int, what: str) -> NlgReport:
        """Count the rows that are longer than the limit; the first of them is the example."""
        long = [index for index, length in enumerate(lengths) if length > limit]
        example = f"row {long[0] + 1} of {lengths[long[0]]} tokens" if long else ""
        return cls(split, len(lengths), limit, len(long), max(lengths, default=0), what, example)

    def line(self) -> str:
        """One sentence about what was lost; empty if nothing was."""
        if not self.cut:
            return ""
        return (
            f"{self.split}: {self.cut:,} of {self.rows:,} rows are longer than {self.limit} tokens (longest "
            f"{self.longest}) and lost {self.what}; e.g. {self.example}"
        )

    def to_json(self) -> dict[str, Any]:
        """The report as plain data, for result files."""
        return asdict(self)


def separator(tokenizer: Any) -> int:
    """The token between input and text, which is the tokenizer's end token.

    Raises:
        UserError: it has none.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("this tokenizer has no end token; need one between input and text; set eos_token in it")
    return int(tokenizer.eos_token_id)


def encode_records(
    tokenizer: Any, records: Sequence[Record], add_separator: bool = True, add_end: bool = True
) -> list[Encoded]:
    """Tokenise rows as LoRA's `gpt2_encode.py` does.

    Args:
        tokenizer: a Hugging Face tokenizer.
        records: the rows; one without a text gets an empty completion.
        add_separator: end the input with the separator (`--add_bos`).
        add_end: end the text with it (`--add_eos`).
    """
    token = separator(tokenizer)
    contexts = token_ids(tokenizer, [record.context for record in records])
    texts = token_ids(tokenizer, [f" {record.completion}" if record.completion else "" for record in records])
    return [
        Encoded([*context, *[token] * add_separator], [*text, *[token] * add_end] if record.completion else [])
        for record, context, text in zip(records, contexts, texts, strict=True)
    ]


def cut_prompts(prompts: Sequence[Ids], max_len: int) -> tuple[list[Ids], NlgReport]:
    """Shorten inputs from their beginning, so that the separator stays.

    Returns:
        The tokens, and what was cut.
    """
    report = NlgReport.of("inputs", [len(ids) for ids in prompts], max_len, "their first tokens")
    return [ids[-max_len:] for ids in prompts], report


def token_rows(
    rows: Sequence[Encoded], seq_len: int, objective: str = "clm", split: str = "train"
) -> tuple[TokenRows, NlgReport]:
    """Put rows into flat arrays for training or evaluation.

    Args:
        rows: rows with texts.
        seq_len: most tokens of a row.
        objective: `clm` or `jlm`.
        split: what the report calls them.

    Returns:
        The rows, and what was cut.

    Raises:
        UserError: an unknown objective, or inputs that leave no room for one token of text and the end token.
    """
    if objective not in OBJECTIVES:
        raise UserError(f"found obj {objective}; need one of {', '.join(OBJECTIVES)}; change --obj")
    _refuse_long_inputs(rows, seq_len, split)
    lengths = [len(row.context) + len(row.completion) for row in rows]
    targets = [_cut_text(row.completion, seq_len - len(row.context)) for row in rows]
    report = NlgReport.of(split, lengths, seq_len, "the last tokens of their texts; raise --seq_len")
    return TokenRows([row.context for row in rows], targets, objective == "jlm"), report


def _cut_text(ids: Ids, room: int) -> Ids:
    return ids if len(ids) <= room else [*ids[: room - 1], ids[-1]]


def _refuse_long_inputs(rows: Sequence[Encoded], seq_len: int, split: str) -> None:
    long = [index for index, row in enumerate(rows) if len(row.context) + 2 > seq_len]
    if long:
        longest = max(len(rows[index].context) for index in long)
        raise UserError(
            f"{len(long):,} of {len(rows):,} inputs of {split} leave no room for a text in seq_len {seq_len}: the "
            f"longest has {longest} tokens, the first is row {long[0] + 1}; need {longest + 2} or more; "
            "raise --seq_len or shorten them"
        )
