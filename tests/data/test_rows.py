"""Local files are read in every supported form, and what is wrong with a file is said by name."""

from __future__ import annotations

import csv
import gzip
import json
import pickle
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from sharelora.data.rows import EXTENSIONS, BadCell, cell, changed, optional, parse_rows, read_rows
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
    # An empty cell of these two is a missing value: they cannot say that it is an empty text.
    empty = None if ending.startswith((".csv", ".tsv")) else ""
    assert read_rows(path) == [ROWS[0], {"input": empty, "output": "x"}]


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
    "bomb.jsonl.gz": (gzip.compress(b" " * (4 << 20)), "that become more than"),
    "cut.jsonl.gz": (gzip.compress(b'{"a": 1}\n' * 100)[:-9], "damaged or cut short"),
    "latin.csv": ("a,b\né,1\n".encode("latin-1"), "is not UTF-8 text"),
    "empty.json": (b"[]", "is empty; need at least one row"),
    "empty.jsonl": (b"\n", "is empty"),
    "empty.csv": (b"", "is empty"),
    "header.tsv": (b"a\tb\n", "is empty"),
    "half.jsonl": (
        b'{"a": 1}\n\n{"a": {"b": ["\\ud83d"]}}\n',
        "half of a character (a lone surrogate) in line 3, column a",
    ),
    "half.json": (b'[{"a": "x"}, {"\\udE00": 1}]', "half of a character (a lone surrogate) in row 2, column \\ude00"),
    "twice.csv": (b"a,b,a\n1,2,3\n", "has the column 'a' twice; need one name for each column"),
    "twice.jsonl": (b'{"a": 1}\n{"b": 2, "b": 3}\n', "has the name 'b' twice in line 2; need a name for each column"),
    "inside.json": (b'[{"a": [{"b": 2, "b": 3}]}]', "has the name 'b' twice in row 1, column a"),
    "semicolons.csv": (b"text;label\na;0\n", "has a semicolon between its columns (text;label); need a comma"),
    "commas.tsv": (b"text,label\na,0\n", "has a comma between its columns (text,label); need a tab; save it with that"),
    "ragged.tsv": (b"a\tb\n1\t2\t3\n", "has 3 cells in row 1 but 2 columns (line 2; the separator is a tab)"),
    "open.csv": (b'a,b\n1,"2\n3,4\n5,6\n', "has a damaged line 2 (unexpected end of data; the separator is a comma)"),
    "inner.csv": (b'a,b\n1,"2"3\n', "has a damaged line 2 (',' expected after '\"'; the separator is a comma)"),
    "wide.csv": ("a,b\n1,2\n".encode("utf-16"), "is UTF-16 text; need UTF-8"),
    "deep.json": (b"[" * 100_000, "nested deeper than 100 levels"),
    "deep.jsonl": (b'{"a": 1}\n{"a": ' + b"[" * 100_000, "has a damaged line 2 (nested deeper than 100 levels)"),
    "long.jsonl": (b'{"a": 1}\n{"a": ' + b"9" * 5000 + b"}\n", "has a damaged line 2"),
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


def test_a_cell_of_any_length_is_read_and_the_limit_of_the_process_stays(tmp_path: Path) -> None:
    path, limit = tmp_path / "rows.csv", csv.field_size_limit()
    path.write_text("a,b\n1," + "word " * 40_000 + "\n", encoding="utf-8")
    assert read_rows(path) == [{"a": "1", "b": "word " * 40_000}]
    assert csv.field_size_limit() == limit


def test_a_whole_pair_of_surrogates_is_one_character(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "\\ud83d\\ude00"}\n')
    assert read_rows(path) == [{"a": "\U0001f600"}]


def test_a_parquet_column_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], names=["a", "a"]), path)
    with pytest.raises(UserError, match=r"rows.parquet has the column 'a' twice"):
        read_rows(path)


def test_missing_values_are_none_however_they_are_written(tmp_path: Path) -> None:
    texts = {
        "rows.json": '[{"a": NaN, "b": null, "c": "nan", "d": ""}]',
        "rows.jsonl": '{"a": NaN, "b": null, "c": "nan", "d": ""}',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert read_rows(tmp_path / name) == [{"a": None, "b": None, "c": "nan", "d": ""}]
    table = pyarrow.table({"a": [float("nan"), 0.5], "b": pyarrow.array([None, "x"])})
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert read_rows(tmp_path / "rows.parquet") == [{"a": None, "b": None}, {"a": 0.5, "b": "x"}]


def test_words_that_may_mean_a_missing_value_are_texts_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b\nx,None of them\nNone,Nan\n,N/A\nnan,NaN\n")
    assert read_rows(path)[1:] == [{"a": "None", "b": "Nan"}, {"a": None, "b": "N/A"}, {"a": None, "b": None}]
    [message] = [record.getMessage() for record in caplog.records]
    assert "rows.csv, row 2 (line 3) has one of" in message and "2 in all" in message
    caplog.clear()
    (tmp_path / "rows.jsonl").write_text('{"a": "None"}')
    assert read_rows(tmp_path / "rows.jsonl") == [{"a": "None"}] and not caplog.records


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "nothing in column a"),
        (float("nan"), "nothing in column a"),
        (float("inf"), "an infinite number in column a"),
        ([], "a list in column a"),
        ({}, "a dict in column a"),
        (b"x", "a bytes in column a"),
    ],
)
def test_a_cell_that_is_no_text_is_refused(value: object, words: str) -> None:
    with pytest.raises(BadCell, match=words):
        cell({"a": value}, "a")


def test_numbers_are_texts_and_what_is_missing_may_be_optional() -> None:
    assert [cell({"a": value}, "a") for value in ("", 3, 0.5, True)] == ["", "3", "0.5", "True"]
    assert [optional(row, "a") for row in ({}, {"a": None}, {"a": float("nan")}, {"a": "x"})] == ["", "", "", "x"]


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("rows.jsonl", '{"a": "x"}\n\n{"a": "x"}\n{"b": 1}\n', "rows.jsonl, row 3 (line 4)"),
        ("dense.jsonl", '{"a": "x"}\n{"b": "x"}\n', "dense.jsonl, row 2"),
        ("rows.json", '[{"a": "x"}, {"b": 1}]', "rows.json, row 2"),
        ("rows.csv", 'a,b\n"x\ny",1\n\n,2\n', "rows.csv, row 2 (line 5)"),
    ],
)
def test_a_row_is_named_as_people_count_in_its_file(tmp_path: Path, name: str, text: str, place: str) -> None:
    (tmp_path / name).write_text(text)
    # Rows before it may have been left out, and it may have been given other columns.
    rows = [changed(row, {"c": "x"}) for row in read_rows(tmp_path / name)][-1:]
    with pytest.raises(UserError) as caught:
        parse_rows(rows, "elsewhere", lambda row: cell(row, "a"))
    assert str(caught.value).startswith(f"{tmp_path / place}: nothing in column a; need")
    assert pickle.loads(pickle.dumps(rows[0])).place == str(tmp_path / place)
