"""Files of token ids as LoRA's `gpt2_encode.py` and `gpt2_beam.py` write them: rows, predictions, and back to text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sharelora.data.nlg.load import load_nlg, locate_nlg
from sharelora.data.nlg.tokens import Encoded, Ids, encode_records
from sharelora.data.rows import Row, extension, place, read_rows, summary
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
    path = locate_nlg(name_or_path, split, data_root)
    if path is not None and has_ids(path):
        return read_ids(path, len(tokenizer), need_text)
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
    encoded = []
    for number, row in enumerate(read_rows(path), 1):
        where = place(row, number, str(path))
        context = ids_in(row, "context", vocabulary, where)
        completion = ids_in(row, "completion", vocabulary, where) if need_text or row.get("completion") else []
        if not context or (need_text and not completion):
            raise UserError(f"{where} has no ids in one of context and completion; need some in each; repair the row")
        encoded.append(Encoded(context, completion))
    return encoded


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


def read_predictions(path: str | Path, vocabulary: int, rows: int) -> dict[int, Ids]:
    """Read predicted ids.

    Args:
        path: `{"id": row, "predict": [ids]}` lines.
        vocabulary: how many tokens there are.
        rows: how many rows were to be decoded.

    Returns:
        Row -> ids; of several predictions of a row the last one.

    Raises:
        UserError: another form, a row that does not exist, or an id outside the vocabulary.
    """
    predictions = {}
    for number, line in enumerate(read_rows(path), 1):
        where, row = place(line, number, str(path)), line.get("id")
        if not isinstance(row, int) or isinstance(row, bool) or not 0 <= row < rows:
            raise UserError(f"{where} has the id {row}; need that of a row, 0 to {rows - 1}; is it another data set?")
        predictions[row] = ids_in(line, "predict", vocabulary, where)
    return predictions


def text_of(tokenizer: Any, ids: Ids) -> str:
    """The text of predicted ids: up to the first end token and the first blank line."""
    text = str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    return text.split(tokenizer.eos_token)[0].split("\n\n")[0].strip()
