"""Files of token ids, as LoRA's `gpt2_encode.py` and `gpt2_beam.py` write them, and their way back to text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharelora.data.nlg.encoding import Encoded, Ids, encode_records, separator
from sharelora.data.nlg.records import Record
from sharelora.data.nlg.sources import load_nlg, locate_nlg
from sharelora.data.readers import Row, extension, read_rows, summary
from sharelora.support.errors import UserError


def load_encoded(
    name_or_path: str | Path,
    split: str,
    tokenizer: Any,
    data_root: Path | None = None,
    *,
    need_text: bool = True,
) -> list[Encoded]:
    """Read a split as tokens: the ids of a file that has ids, else its text tokenised.

    Args:
        name_or_path: as for `load_nlg`, or a file of ids.
        split: `train`, `valid` or `test`.
        tokenizer: a Hugging Face tokenizer; the one that a file of ids was made with.
        data_root: as for `load_nlg`.
        need_text: every row must have a text.

    Raises:
        UserError: see `load_nlg`; or ids that are outside the vocabulary.
    """
    place = locate_nlg(name_or_path, split, data_root)
    if place is not None and has_ids(place):
        return read_ids(place, len(tokenizer), need_text)
    records = load_nlg(name_or_path, split, data_root, need_text=need_text)
    return encode_records(tokenizer, records)


def has_ids(path: Path) -> bool:
    """Whether a file's rows are token ids."""
    if path.is_dir() or extension(path) not in (".jsonl", ".jsonl.gz", ".json", ".json.gz"):
        return False
    return isinstance(read_rows(path)[0].get("context"), list)


def read_ids(path: Path, vocabulary: int, need_text: bool = True) -> list[Encoded]:
    """Read a file with `{"context": [ids], "completion": [ids]}` in each line.

    Raises:
        UserError: another form, or an id outside the vocabulary; the row is named.
    """
    found = []
    for number, row in enumerate(read_rows(path), 1):
        where = f"{path} row {number}"
        context = ids_in(row, "context", vocabulary, where)
        completion = ids_in(row, "completion", vocabulary, where) if need_text or row.get("completion") else []
        if not context or (need_text and not completion):
            raise UserError(f"{where} has no ids in one of context and completion; need some in each; repair the row")
        found.append(Encoded(context, completion))
    return found


def ids_in(row: Row, column: str, vocabulary: int, where: str) -> Ids:
    """The token ids of a row's column.

    Args:
        row: the row.
        column: the column.
        vocabulary: how many tokens there are.
        where: which row it is, for messages.

    Raises:
        UserError: no list of whole numbers, or one outside the vocabulary.
    """
    ids = row.get(column)
    if not isinstance(ids, list) or not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise UserError(f"{where} has {summary(ids, 40)} as {column}; need a list of token ids; repair the row")
    wrong = next((token for token in ids if not 0 <= token < vocabulary), None)
    if wrong is not None:
        raise UserError(
            f"{where} has the token id {wrong} in {column}; the vocabulary has 0 to {vocabulary - 1}; "
            "encode it with this model's tokenizer"
        )
    return ids


def text_records(rows: Sequence[Encoded], tokenizer: Any) -> list[Record]:
    """Turn rows of ids back into text, without separators and without the space before the text."""
    end = separator(tokenizer)

    def text(ids: Ids) -> str:
        kept = ids[:-1] if ids[-1:] == [end] else ids
        return str(tokenizer.decode(kept, clean_up_tokenization_spaces=False)).strip()

    return [Record(text(row.context), text(row.completion)) for row in rows]
