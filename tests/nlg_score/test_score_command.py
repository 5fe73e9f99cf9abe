"""NLG/score.py as a person runs it: files in, a table and a result.json out, or one line that says what is wrong."""

from __future__ import annotations

import json
import logging
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from sharelora.evaluation.nlg_score import parse, run
from sharelora.metrics import java
from sharelora.reporting.results import read_result
from sharelora.support.errors import UserError

MILL = "The Mill is near the river ."


@pytest.fixture
def e2e(tmp_path: Path) -> str:
    """The command line of two scored E2E inputs without METEOR; flags put behind it win."""
    (tmp_path / "refs.txt").write_text(f"{MILL}\nNear the river is The Mill .\n\nFitzbillies is cheap .\n")
    (tmp_path / "pred.txt").write_text(f"{MILL}\nFitzbillies is cheap .\n")
    return f"--task e2e --references {tmp_path}/refs.txt --predictions {tmp_path}/pred.txt --without meteor"


def scored(words: str) -> dict[str, float]:
    return run(parse(shlex.split(words)))


def test_e2e_files(e2e: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sharelora")
    metrics = scored(e2e)
    assert list(metrics) == ["BLEU", "NIST", "ROUGE_L", "CIDEr", "inputs"]
    assert metrics["BLEU"] == pytest.approx(1.0) and metrics["ROUGE_L"] == pytest.approx(1.0) and metrics["inputs"] == 2
    assert "left out: METEOR" in caplog.text and "without Java" in caplog.text
    result = read_result(tmp_path / "result.json")
    assert result.kind == "nlg_score" and result.metrics == metrics
    assert result.files["predictions"]["path"] == str(tmp_path / "pred.txt")


def test_nist_as_the_recipe_has_it(e2e: str) -> None:
    assert scored(f"{e2e} --python")["NIST"] != scored(e2e)["NIST"]


def formatted(path: Path, rows: list[tuple[str, str, bool]]) -> Path:
    lines = [json.dumps({"context": context, "completion": text, "cate": seen}) for context, text, seen in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_webnlg_from_the_data_with_seen_and_unseen(tmp_path: Path) -> None:
    rows = [("a : b : c", "A is B .", True), ("d : e : f", "x y z", False), ("a : b : c", "A b C", True)]
    data = formatted(tmp_path / "test.jsonl", rows)
    (tmp_path / "pred.txt").write_text("A is b.\nw\n")
    metrics = scored(f"--task webnlg --data {data} --predictions {tmp_path}/pred.txt --without METEOR")
    assert metrics["TER_seen"] == 0.0 and metrics["TER_unseen"] == pytest.approx(1.0)
    assert metrics["TER"] == pytest.approx(0.5)
    assert (metrics["inputs"], metrics["inputs_seen"], metrics["inputs_unseen"]) == (2, 1, 1)


def test_dart_files_count_six_references(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"reference{number}").write_text("right\n" if number == 6 else "wrong\n")
    (tmp_path / "pred.txt").write_text("right\n")
    words = f"--task dart --references {tmp_path} --predictions {tmp_path}/pred.txt --without meteor"
    assert scored(words)["TER"] == 1.0
    assert scored(f"{words} --ref_num 7")["TER"] == 0.0


def test_the_result_joins_the_training_of_an_adapter(e2e: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"schema": 1, "kind": "train", "metrics": {}}')
    (tmp_path / "adapter.json").write_text("{}")
    scored(f"{e2e} --adapter {tmp_path}/adapter.json")
    assert "adapter" in read_result(tmp_path / "result_nlg_score.json").files


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--task e2e", "--predictions"),
        ("--task e3e --predictions p", "e3e"),
        ("--task e2e --predictions p --references r --data e2e", "both --references and --data"),
        ("--task webnlg --predictions p --python", "NIST, which only e2e has"),
        ("--task e2e --predictions p.jsonl --references r", "token ids in --predictions and texts in --references"),
        ("--task e2e --predictions p.jsonl", "add --tokenizer"),
        ("--task dart --predictions p --without nist", "found metric nist; need one of BLEU, METEOR, TER"),
        ("--task dart --predictions p --without bleu,meteor,ter", "all of BLEU, METEOR, TER are left out"),
        ("--task e2e --predictions p --ref_num 0", "ref_num"),
        ("--task e2e --predictions p --reference r", "did you mean --references"),
    ],
)
def test_a_bad_command_line(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(shlex.split(words))


def test_other_files_than_the_test_set(e2e: str, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text(MILL)
    with pytest.raises(UserError, match="found 1 hypotheses for 2 lists of references"):
        scored(f"{e2e} --predictions {tmp_path}/short.txt")
    with pytest.raises(UserError, match=r"nothing\.txt"):
        scored(f"{e2e} --predictions {tmp_path}/nothing.txt")


def test_meteor_without_java_is_one_line(e2e: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"METEOR needs Java .*--without meteor"):
        scored(e2e.replace("--without meteor", ""))
    assert scored(e2e)["BLEU"] == pytest.approx(1.0)


def test_the_entry_point(
    e2e: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Put back afterwards what the command sets.
    monkeypatch.setattr(logging.getLogger("sharelora"), "level", logging.getLogger("sharelora").level)
    monkeypatch.setattr(sys, "argv", ["score.py", *shlex.split(e2e), "--without", "x"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(root / "NLG" / "score.py"), run_name="__main__")
    said = capsys.readouterr()
    assert left.value.code == 2 and said.out == ""
    assert said.err.startswith("error: found metric x; need one of BLEU") and said.err.count("\n") == 1
