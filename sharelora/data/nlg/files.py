"""Read a file of rows, whatever its form: LoRA's `mr||ref` text, XML, or a table (csv, json, jsonl, parquet)."""

from __future__ import annotations

from pathlib import Path

from sharelora.data.nlg.forms import records_of
from sharelora.data.nlg.records import Record
from sharelora.data.nlg.webnlg import read_xml, xml_files
from sharelora.data.readers import read_rows, read_text
from sharelora.errors import UserError

SEPARATOR = "||"


def read_file(path: str | Path, need_text: bool = True) -> list[Record]:
    """Read every row of a file, or of a folder of XML files.

    Args:
        path: a file, also gzipped.
        need_text: every row must have a text; without, inputs alone are read too.

    Raises:
        UserError: it is missing, damaged, empty or of another form; the line, row or entry is named.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        records = [record for file in xml_files(path) for record in read_xml(file, need_text)]
        if not records:
            raise UserError(f"{path} has no XML files; need those of a split of WebNLG; check the path")
        return records
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind == "txt":
        return read_lines(path, need_text)
    return list(read_xml(path, need_text)) if kind == "xml" else records_of(read_rows(path), str(path), need_text)


def read_lines(path: Path, need_text: bool = True) -> list[Record]:
    """Read LoRA's text form, one `mr||ref` a line; blank lines count as nothing.

    Raises:
        UserError: a line of another form; its number is named.
    """
    records = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        parts = [part.strip() for part in line.split(SEPARATOR)]
        if parts == [""]:
            continue
        if len(parts) == 1 and not need_text:
            parts.append("")
        if len(parts) != 2 or not parts[0] or (need_text and not parts[1]):
            raise UserError(f"{path} line {number} {_problem(parts)}; need input||text; repair the line")
        records.append(Record(parts[0], parts[1]))
    if not records:
        raise UserError(f"{path} is empty; need a line input||text for each text; check the file")
    return records


def _problem(parts: list[str]) -> str:
    if len(parts) != 2:
        return f"has {len(parts) - 1} separators {SEPARATOR}"
    return "has an empty text" if parts[0] else "has an empty input"
