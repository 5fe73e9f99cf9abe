"""LoRA's three conversions: files to `{"context", "completion"}` lines, these to token ids, predicted ids to text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharelora.data.nlg.load import load_nlg, read_file
from sharelora.data.nlg.records import Group, Record, grouped
from sharelora.data.rows import read_text
from sharelora.support.errors import UserError
from sharelora.support.files import write_json_lines, write_text

if TYPE_CHECKING:
    from sharelora.data.nlg.tokens import Ids

# Imports inside functions load torch, which takes a second: the parser of NLG/convert.py needs none of it.

# How references are laid out: E2E's scripts read one file with blank lines, those of WebNLG one file per reference.
KINDS = ("e2e", "webnlg", "dart")
FILTERS: Mapping[str, bool | None] = {"all": None, "seen": True, "unseen": False}


def format_converting(source: str, target: str | Path, split: str = "train", data_root: Path | None = None) -> int:
    """Write any form of rows as `{"context", "completion"}` lines, of WebNLG with `cate` (a category of training).

    Args:
        source: a file or the name of a set, as `load_nlg` takes it.
        target: the file to write.
        split: which split of a named set.
        data_root: folder of local data.

    Returns:
        How many rows there are.
    """
    records = load_nlg(source, split, data_root, need_text=False)
    write_json_lines(target, (_formatted(record) for record in records))
    return len(records)


def _formatted(record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {"context": record.context, "completion": record.completion}
    return row if record.seen is None else {**row, "cate": record.seen}


def encode(tokenizer: Any, source: str | Path, target: str | Path, add_bos: bool, add_eos: bool) -> int:
    """Write rows as token ids.

    Args:
        tokenizer: a Hugging Face tokenizer.
        source: a file of rows.
        target: the file to write.
        add_bos: end inputs with the separator; it begins the text.
        add_eos: end texts with it.

    Returns:
        How many rows there are.
    """
    from sharelora.data.nlg.tokens import encode_records

    rows = encode_records(tokenizer, read_file(source, need_text=False), add_bos, add_eos)
    write_json_lines(target, ({"context": row.context, "completion": row.completion} for row in rows))
    return len(rows)


@dataclass(frozen=True)
class DecodeOptions:
    """How texts are written.

    Args:
        kind: layout of the references, one of `KINDS`.
        ref_num: reference files of `webnlg` and `dart`; an input with fewer texts repeats its first one.
        tokenize: put spaces around everything except letters and digits.
        lower: write in lower case.
        filter: `all`, or only inputs of `seen` or `unseen` categories.
    """

    kind: str = "e2e"
    ref_num: int = 4
    tokenize: bool = False
    lower: bool = False
    filter: str = "all"

    def styled(self, text: str) -> str:
        """A text as it is to be written, on one line."""
        text = text.replace("\r", " ").replace("\n", " ").strip()
        if self.tokenize:
            text = " ".join(part for part in re.split(r"(\W)", text) if part.strip())
        return text.lower() if self.lower else text


def decode(
    tokenizer: Any,
    predictions: str | Path,
    rows: str | Path,
    references_out: str | Path,
    predictions_out: str | Path,
    options: DecodeOptions,
    unique: str | Path | None = None,
) -> int:
    """Write predicted ids as text, one line per distinct input, and the references for the official scripts.

    Args:
        tokenizer: the tokenizer of the model that predicted.
        predictions: `{"id": row, "predict": [ids]}` lines.
        rows: the rows that were decoded, as text.
        references_out: a file for `e2e`, a folder for the others.
        predictions_out: the file of predictions.
        options: how to write.
        unique: a file with a name for each row; rows of one name are one input, whatever their text.

    Returns:
        How many inputs were written.

    Raises:
        UserError: a malformed file, an input without a text or prediction, or nothing left by the filter.
    """
    records = read_file(rows)
    groups = grouped(records) if unique is None else _grouped_by_name(records, Path(unique))
    wanted = FILTERS[options.filter]
    selected = [group for group in groups if wanted is None or group.seen is wanted]
    if not selected:
        raise UserError(f"{rows} has no inputs that are {options.filter}; need WebNLG's rows with cate; drop --filter")
    from sharelora.data.nlg.token_files import read_predictions, text_of

    by_row = read_predictions(predictions, len(tokenizer), len(records))
    lines = [options.styled(text_of(tokenizer, _predicted(group, by_row, str(predictions)))) for group in selected]
    references = [[options.styled(text) for text in group.references] for group in selected]
    write_text(predictions_out, "".join(line + "\n" for line in lines))
    _write_references(references, Path(references_out), options)
    return len(selected)


def _grouped_by_name(records: Sequence[Record], file: Path) -> list[Group]:
    names = [line.strip() for line in read_text(file).splitlines()]
    if len(names) != len(records):
        raise UserError(f"{file} has {len(names)} lines for {len(records)} rows; need one each; check the file")
    named = [Record(name, row.completion, row.seen) for name, row in zip(names, records, strict=True)]
    return grouped(named)


def _predicted(group: Group, by_row: Mapping[int, Ids], path: str) -> Ids:
    predictions = [by_row[row] for row in group.rows if row in by_row]
    if not predictions:
        raise UserError(
            f"{path} has no prediction for row {group.rows[0]} ({group.context[:60]!r}); need one for each input; "
            "finish the decoding first"
        )
    return predictions[-1]


def _write_references(references: Sequence[Sequence[str]], path: Path, options: DecodeOptions) -> None:
    if options.kind == "e2e":
        write_text(path, "\n".join("".join(line + "\n" for line in texts) for texts in references))
        return
    for number in range(options.ref_num):
        lines = (texts[number] if number < len(texts) else texts[0] for texts in references)
        write_text(path / f"reference{number}", "".join(line + "\n" for line in lines))
