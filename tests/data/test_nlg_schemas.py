"""Every published form gives the same rows, and a malformed one says where and what was expected."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nlg_rows import (
    CONTEXT,
    DART,
    E2E,
    E2E_CSV,
    E2E_TEXT,
    TEXTS,
    WEBNLG_ENTRIES,
    WEBNLG_HUB,
    WEBNLG_LINE,
    WEBNLG_XML,
    write_json,
    write_lines,
    write_text,
)

from sharelora.data.nlg import Record, grouped
from sharelora.data.nlg.load import read_file
from sharelora.data.nlg.schemas import records_of
from sharelora.support.errors import UserError


def pairs(records: list[Record]) -> list[tuple[str, str]]:
    return [(record.context, record.completion) for record in records]


def test_the_official_csv_gives_the_rows_of_loras_text(tmp_path: Path) -> None:
    assert pairs(read_file(write_text(tmp_path / "a.csv", E2E_CSV))) == E2E
    assert pairs(read_file(write_text(tmp_path / "a.txt", E2E_TEXT))) == E2E
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(E2E_TEXT.encode()))
    assert pairs(read_file(tmp_path / "b.txt.gz")) == E2E
    hub = [{"meaning_representation": "name[Cotto], familyFriendly[no]", "human_reference": "Cotto isn't."}]
    assert pairs(records_of(hub, "hub")) == [("name : Cotto | family friendly : no", "Cotto is n't .")]


@pytest.mark.parametrize(
    ("name", "write", "value"),
    [
        ("a.jsonl", write_lines, [WEBNLG_LINE]),
        ("a.json", write_json, WEBNLG_ENTRIES),
        ("a.xml", write_text, WEBNLG_XML),
        ("hub.jsonl", write_lines, [WEBNLG_HUB]),
    ],
)
def test_webnlg_keeps_checked_texts_and_says_whether_the_category_is_seen(
    tmp_path: Path, name: str, write: Callable[[Path, Any], Path], value: Any
) -> None:
    assert read_file(write(tmp_path / name, value)) == [Record(CONTEXT, text, True) for text in TEXTS]


def test_a_category_of_the_test_set_alone_is_unseen(tmp_path: Path) -> None:
    records = read_file(write_lines(tmp_path / "a.jsonl", [{**WEBNLG_LINE, "category": "Artist"}]))
    assert [record.seen for record in records] == [False, False]


def test_a_folder_of_xml_is_read_in_order_and_the_test_set_once(tmp_path: Path) -> None:
    for name in ("b/2.xml", "a/1.xml"):
        write_text(tmp_path / "train" / name, WEBNLG_XML.replace("Jacob leads", name))
    assert [r.completion[:7] for r in read_file(tmp_path / "train")][1::2] == ["a/1.xml", "b/2.xml"]
    for name in ("testdata_with_lex.xml", "testdata_unseen_with_lex.xml"):
        write_text(tmp_path / "test" / name, WEBNLG_XML)
    assert len(read_file(tmp_path / "test")) == 2


def test_dart_writes_properties_in_lower_case(tmp_path: Path) -> None:
    context = "Mars Hill : joined : 1973"
    expected = [(context, "Mars Hill joined in 1973."), (context, "In 1973 ...")]
    assert pairs(read_file(write_json(tmp_path / "a.json", [DART]))) == expected
    lists = {"source": ["x", "x"], "text": [note["text"] for note in DART["annotations"]]}
    assert pairs(records_of([{**DART, "annotations": lists}], "hub")) == expected


def test_formatted_rows_keep_their_category(tmp_path: Path) -> None:
    rows = [{"context": "a : b", "completion": " text ", "cate": False}, {"context": "a : b", "completion": "more"}]
    found = read_file(write_lines(tmp_path / "a.jsonl", rows))
    assert found == [Record("a : b", "text", False), Record("a : b", "more")]


def test_inputs_alone_are_read_where_no_text_is_needed(tmp_path: Path) -> None:
    file = write_text(tmp_path / "testset.csv", 'MR\r\n"name[Cotto], near[The Bakers]"\r\n')
    assert read_file(file, need_text=False) == [Record("name : Cotto | near : The Bakers", "")]
    assert read_file(write_text(tmp_path / "a.txt", "a : b\n"), need_text=False) == [Record("a : b", "")]
    no_text = write_lines(tmp_path / "a.jsonl", [{"category": "Airport", "triples": [["a", "b", "c"]]}])
    assert read_file(no_text, need_text=False) == [Record("a : b : c", "", True)]
    dart = write_lines(tmp_path / "d.jsonl", [{"tripleset": [["a", "B", "c"]]}])
    assert read_file(dart, need_text=False) == [Record("a : b : c", "")]
    for path in (file, tmp_path / "a.txt", no_text, dart):
        with pytest.raises(UserError):
            read_file(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a||b\n\na b\n", r"line 3 has 0 separators \|\|; need input\|\|text"),
        ("a||b\na||b||c\n", r"line 2 has 2 separators"),
        ("a|| \n", "line 1 has an empty text"),
        ("||b\n", "line 1 has an empty input"),
        ("\n\n", "is empty; need a line"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_file(write_text(tmp_path / "a.txt", text))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"mr": "name[Cotto]", "ref": " "}, r"row 2 has an empty text in column ref; need E2E \(mr\+ref\)"),
        ({"mr": "name[Cotto]"}, "row 2 has nothing in column ref"),
        ({"mr": "name Cotto", "ref": "x"}, r"row 2 has no attribute\[value\] at 'name Cotto'"),
        ({"mr": "name[Cotto], near", "ref": "x"}, r"row 2 has no attribute\[value\] at 'near'"),
        ({"mr": "name[]", "ref": "x"}, r"row 2 has no attribute"),
    ],
)
def test_a_malformed_row_of_e2e_is_named(row: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        records_of([{"mr": "name[Cotto]", "ref": "Cotto."}, row], "a.csv")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"triples": [["a", "b"]]}, "where a triple of subject, property and object is needed"),
        ({"triples": []}, "no triples"),
        ({"triples": "a | b | c"}, "no list in column triples"),
        ({"lex": []}, "row 1 has 0 texts and 3 comments"),
        ({"lex": [], "lex_comment": []}, "no text"),
        ({"lex": ["x", "", "y"]}, "an empty text"),
        ({"category": 3}, "as category where a name is needed"),
    ],
)
def test_a_malformed_row_of_webnlg_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        records_of([{**WEBNLG_LINE, **change}], "a.jsonl")


def test_a_malformed_entry_is_named(tmp_path: Path) -> None:
    broken = write_text(tmp_path / "a.xml", WEBNLG_XML.replace(" | leaderName", ""))
    with pytest.raises(UserError, match=r"a\.xml entry Id1 has .*triple"):
        read_file(broken)
    with pytest.raises(UserError, match="is not valid XML"):
        read_file(write_text(tmp_path / "b.xml", WEBNLG_XML[:200]))
    with pytest.raises(UserError, match="has no <entry>"):
        read_file(write_text(tmp_path / "c.xml", "<a/>"))
    entries = {"entries": [WEBNLG_ENTRIES["entries"][0], {"2": {"category": "Airport"}}]}
    with pytest.raises(UserError, match=r"an entry 2 of another form \(no 'modifiedtripleset'\)"):
        read_file(write_json(tmp_path / "d.json", entries))


def test_other_columns_are_refused_with_those_that_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has the columns question, answer; need one of .*, E2E \(mr\+ref\)"):
        read_file(write_lines(tmp_path / "a.jsonl", [{"question": "x", "answer": "y"}]))


def test_groups_are_in_the_order_in_which_inputs_are_first_seen() -> None:
    rows = [Record("b", "1"), Record("a", "2", True), Record("b", "3")]
    first, second = grouped(rows)
    assert (first.context, first.references, first.rows, first.seen) == ("b", ["1", "3"], [0, 2], None)
    assert (second.context, second.references, second.rows, second.seen) == ("a", ["2"], [1], True)
    assert grouped([Record("a", "")])[0].references == []
    with pytest.raises(UserError, match="2 rows with 1 texts"):
        grouped([Record("a", "x"), Record("a", "")])
