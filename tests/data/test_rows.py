"""Local files are read in every supported form, and what is wrong with a file is said by name."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from sharelora.data.rows import EXTENSIONS, read_rows
from sharelora.support.errors import UserError

ROWS = [{"input": 'a, "b"\n\tc\u2028d', "output": "é!"}, {"input": "", "output": "x"}]


def write(path: Path, rows: list[dict[str, str]]) -> None:
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[1]
    plain = path.with_name("plain." + kind)
    if kind == "json":
        plain.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    elif kind == "jsonl":
        plain.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n", encoding="utf-8")
    elif kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), plain)
    else:
        with plain.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, ["input", "output"], delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    data = plain.read_bytes()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)


@pytest.mark.parametrize("ending", EXTENSIONS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows{ending}"
    write(path, ROWS)
    assert read_rows(path) == ROWS


def test_json_lines_named_json_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('\ufeff{"a": 1}\n{"a": 2}\n', encoding="utf-8")
    assert read_rows(path) == [{"a": 1}, {"a": 2}]


BAD = {
    "rows.xml": (b"<a/>", "need a file ending in .jsonl, .json"),
    "bad.json": (b'[{"a": 1}', "bad.json is not valid JSON"),
    "number.json": (b"[1, 2]", "is not a list of objects"),
    "bad.jsonl": (b'{"a": 1}\n{"a"\n', "has a damaged line 2"),
    "list.jsonl": (b'{"a": 1}\n[3]\n', "has no object in line 2"),
    "ragged.csv": (b"a,b\n1,2\n3\n", "has 1 cells in row 2 but 2 columns"),
    "quote.csv": (b'a,b\n1,"2\n', "has a damaged line"),
    "bad.parquet": (b"PAR1nothing", "is not valid Parquet"),
    "plain.json.gz": (b"[]", "cannot read"),
    "cut.jsonl.gz": (gzip.compress(b'{"a": 1}\n' * 100)[:-9], "damaged or cut short"),
    "latin.csv": ("a,b\né,1\n".encode("latin-1"), "is not UTF-8 text"),
    "empty.json": (b"[]", "is empty; need at least one row"),
    "empty.jsonl": (b"\n", "is empty"),
    "empty.csv": (b"", "is empty"),
    "header.tsv": (b"a\tb\n", "is empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, name: str) -> None:
    data, message = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=name.replace(".", r"\.")) as caught:
        read_rows(tmp_path / name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*gone\.csv: No such file"):
        read_rows(tmp_path / "gone.csv")
