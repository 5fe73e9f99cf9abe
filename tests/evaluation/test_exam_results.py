"""The table of all evaluation commands: which numbers it shows, and a run in small on real data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scores import exam_results
from benchmarks.scores.exam_results import EXAMS, main, rows
from sharelora.support.errors import UserError


def numbers(**more: Any) -> dict[str, Any]:
    return {"accuracy": 0.25, "accuracy_stderr": 0.015, "tokens": 1234, "questions": 900, "seconds": 8.4, **more}


def test_a_row_shows_the_numbers_of_its_score() -> None:
    result = {"seconds": 99.0, "metrics": numbers(chance=0.2)}
    assert rows(EXAMS["mmlu"], result) == [("MMLU, 5-shot", "900", "25.00 ± 1.50", "20.00", "1,234", "8")]
    code = {"pass@1": 0.0, "pass@1_stderr": None, "tokens": 5, "samples": 7, "generation_seconds": 3.2}
    assert rows(EXAMS["humaneval"], {"seconds": 99.0, "metrics": code}) == [("HumanEval", "7", "0.00", "0", "5", "3")]


def test_a_command_of_two_scores_has_two_rows() -> None:
    metrics = {"likelihood": numbers(chance=0.4), "generated": numbers(accuracy=0.0)}
    first, second = rows(EXAMS["commonsense"], {"seconds": 1.0, "metrics": metrics})
    assert (first[0], first[2], first[3]) == ("six commonsense tasks, likelihood", "25.00 ± 1.50", "40.00")
    assert (second[0], second[2]) == ("six commonsense tasks, generated", "0.00 ± 1.50")


def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--model", "m", "--exams", "mmlu,mmlu2"])
    with pytest.raises(UserError, match="found the unknown exam 'mmlu2'; need some of mmlu, mmlu_pro"):
        main()
    monkeypatch.setattr(exam_results, "run_command", lambda words: 2)
    monkeypatch.setattr("sys.argv", ["x", "--model", "m", "--exams", "mmlu", "--output", str(tmp_path)])
    with pytest.raises(UserError, match=r"found that eval/mmlu\.py ended with 2"):
        main()
    assert not list(tmp_path.rglob("*.md"))


def test_what_has_ended_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mmlu").mkdir()
    (tmp_path / "mmlu" / "result.json").write_text(json.dumps({"seconds": 60.0, "metrics": numbers(chance=0.25)}))
    monkeypatch.setattr(exam_results, "run_command", lambda words: pytest.fail(f"{words} was run again"))
    words = ["x", "--model", "m", "--exams", "mmlu", "--output", str(tmp_path), "--document", str(tmp_path / "e.md")]
    monkeypatch.setattr("sys.argv", words)
    main()
    written = (tmp_path / "e.md").read_text()
    assert "| MMLU, 5-shot | 900   | 25.00 ± 1.50 | 25.00    | 1,234  | 8       |" in written
    assert "1 minutes of wall clock" in written and "eval/mmlu.py --model m" in written


@pytest.mark.slow
@pytest.mark.realdata
def test_every_command_runs_on_real_data(
    shared_data: Path, shared_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARELORA_DATA", str(shared_data))
    exams = "mmlu,mmlu_pro,commonsense,gsm8k"
    flags = ["--exams", exams, "--limit", "2", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["x", "--model", str(shared_models / "tiny-llama"), *flags])
    main()
    lines = (tmp_path / "evaluation.md").read_text().splitlines()
    assert sum(line.startswith("| ") and " 2 " in line for line in lines) == 6
