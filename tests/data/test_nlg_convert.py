"""LoRA's three conversion commands."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from nlg_rows import CONTEXT, E2E, E2E_CSV, TEXTS, WEBNLG_LINE, write_lines, write_text
from small_data import byte_tokenizer

from sharelora.data.nlg.convert import DecodeOptions, decode, encode, format_converting
from sharelora.support.errors import UserError


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_tokenizer(bos="<|endoftext|>", eos="<|endoftext|>")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_formatting_writes_contexts_and_completions(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert format_converting(str(write_text(tmp_path / "a.csv", E2E_CSV)), out) == 3
    assert rows(out) == [{"context": context, "completion": text} for context, text in E2E]
    assert format_converting(str(write_lines(tmp_path / "a.jsonl", [WEBNLG_LINE])), out) == 2
    assert rows(out) == [{"context": CONTEXT, "completion": text, "cate": True} for text in TEXTS]


def test_encoding_adds_the_tokens_that_were_asked_for(tmp_path: Path, tokenizer: Any) -> None:
    source = write_text(tmp_path / "a.csv", E2E_CSV)
    context, text = E2E[0]
    end = tokenizer.eos_token_id
    for bos in (True, False):
        for eos in (True, False):
            assert encode(tokenizer, source, tmp_path / "out.jsonl", bos, eos) == 3
            first = rows(tmp_path / "out.jsonl")[0]
            assert first["context"] == ids(tokenizer, context) + [end] * bos
            assert first["completion"] == ids(tokenizer, f" {text}") + [end] * eos


@pytest.fixture
def files(tmp_path: Path, tokenizer: Any) -> dict[str, Path]:
    """Four rows of three inputs, and predictions as the beam search writes them: ended, and filled with zeros."""
    data = [("b", "B one", True), ("a", "A one", False), ("b", "B two", True), ("c", "C one", True)]
    write_lines(tmp_path / "rows.jsonl", [{"context": c, "completion": t, "cate": s} for c, t, s in data])
    said = ["an old one", "Text A.\n\nmore<|endoftext|>", " Text-B here<|endoftext|>!!", "two\nlines"]
    predicted = [{"id": index, "predict": ids(tokenizer, text)} for index, text in enumerate(said)]
    write_lines(tmp_path / "beam.jsonl", predicted)
    return {name: tmp_path / name for name in ("beam.jsonl", "rows.jsonl", "ref", "pred.txt")}


def run(tokenizer: Any, files: dict[str, Path], **options: Any) -> list[str]:
    unique = options.pop("unique", None)
    decode(tokenizer, *files.values(), DecodeOptions(**options), unique)
    return files["pred.txt"].read_text().splitlines()


def test_each_input_is_written_once_cut_at_its_end(tokenizer: Any, files: dict[str, Path]) -> None:
    assert run(tokenizer, files) == ["Text-B here", "Text A.", "two lines"]
    assert files["ref"].read_text() == "B one\nB two\n\nA one\n\nC one\n"


def test_styles_are_those_of_the_official_scripts(tokenizer: Any, files: dict[str, Path]) -> None:
    assert run(tokenizer, files, tokenize=True, lower=True) == ["text - b here", "text a .", "two lines"]
    assert files["ref"].read_text().startswith("b one\n")


def test_references_of_webnlg_are_numbered_files_of_equal_length(tokenizer: Any, files: dict[str, Path]) -> None:
    run(tokenizer, files, kind="webnlg", ref_num=3)
    found = [(files["ref"] / f"reference{number}").read_text() for number in range(3)]
    assert found == ["B one\nA one\nC one\n", "B two\nA one\nC one\n", "B one\nA one\nC one\n"]
    assert not (files["ref"] / "reference3").exists()


def test_seen_and_unseen_inputs_are_told_apart(tokenizer: Any, files: dict[str, Path]) -> None:
    assert run(tokenizer, files, filter="unseen") == ["Text A."]
    assert run(tokenizer, files, filter="seen") == ["Text-B here", "two lines"]
    write_lines(files["rows.jsonl"], [{"context": "a", "completion": "b"}] * 4)
    with pytest.raises(UserError, match="no inputs that are seen; need WebNLG's rows"):
        run(tokenizer, files, filter="seen")


def test_rows_can_be_grouped_by_a_name(tokenizer: Any, files: dict[str, Path], tmp_path: Path) -> None:
    names = write_text(tmp_path / "names", "x\nx\ny\ny\n")
    assert run(tokenizer, files, unique=names) == ["Text A.", "two lines"]
    write_text(names, "x\n")
    with pytest.raises(UserError, match="has 1 lines for 4 rows"):
        run(tokenizer, files, unique=names)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": 4, "predict": [1]}, "row 2 has the id 4; need that of a row, 0 to 3"),
        ({"id": "0", "predict": [1]}, "has the id 0; need that of a row"),
        ({"id": 1, "predict": [99999]}, "the token id 99999 in predict"),
        ({"id": 1, "predict": None}, "row 2 has None as predict"),
        ({"id": 1, "predict": [1]}, r"no prediction for row 3 \('c'\); need one for each input"),
    ],
)
def test_predictions_that_do_not_fit_are_named(
    tokenizer: Any, files: dict[str, Path], row: dict[str, Any], words: str
) -> None:
    write_lines(files["beam.jsonl"], [{"id": 0, "predict": [1]}, row])
    with pytest.raises(UserError, match=words):
        run(tokenizer, files)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    file = Path(__file__).resolve().parent.parent.parent / "NLG" / "convert.py"
    spec = importlib.util.spec_from_file_location("nlg_convert", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_commands_go_from_a_csv_to_texts(
    script: ModuleType, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    tokenizer.save_pretrained(tmp_path / "vocab")
    source, formatted, encoded = write_text(tmp_path / "a.csv", E2E_CSV), tmp_path / "f.jsonl", tmp_path / "e.jsonl"

    def go(text: str) -> None:
        monkeypatch.setattr(sys, "argv", ["convert.py", *text.split()])
        script.main()

    go(f"format_converting {source} {formatted}")
    go(f"encode --vocab {tmp_path}/vocab --input {formatted} --output {encoded} --add_bos --add_eos")
    write_lines(tmp_path / "b", [{"id": i, "predict": row["completion"]} for i, row in enumerate(rows(encoded))])
    (tmp_path / "b").rename(tmp_path / "beam.jsonl")
    out = f"--output_ref_file {tmp_path}/ref.txt --output_pred_file {tmp_path}/pred.txt"
    go(f"decode --vocab {tmp_path}/vocab --sample_file {tmp_path}/beam.jsonl --input_file {formatted} {out}")
    assert (tmp_path / "pred.txt").read_text().splitlines() == [E2E[1][1], E2E[2][1]]
    assert capsys.readouterr().out.count("wrote") == 3
    go("--help")
    with pytest.raises(UserError, match="found the command decoding; need one of format_converting, encode, decode"):
        go("decoding")
    with pytest.raises(UserError, match="did you mean --add_bos"):
        go("encode --vocab a --input b --output c --add_boss")
