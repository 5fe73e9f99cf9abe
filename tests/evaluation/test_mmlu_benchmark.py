"""The comparison of ways to answer MMLU: the same questions, the same choices, and costs that are counted rightly."""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
from pathlib import Path

import pytest
from commands import write_rows
from toy import WORDS, make_model, make_tokenizer

from benchmarks.harness import machine
from benchmarks.speed import mmlu, mmlu_ways
from sharelora import UserError
from sharelora.data.questions import Question
from sharelora.evaluation.exams import PromptWriter, prepare
from sharelora.evaluation.multiple_choice import Choice

SUBJECTS = ("anatomy", "sociology", "virology")


def questions(each: int, seed: int) -> list[Question]:
    rng = random.Random(seed)
    return [
        Question(
            subject,
            " Which is " + " ".join(rng.choices(WORDS, k=rng.randint(1, 8))) + "? ",
            tuple(rng.sample(WORDS, 4)),
            rng.choice("ABCD"),
        )
        for subject in SUBJECTS
        for _ in range(each)
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """MMLU files of three subjects."""
    for split, each, seed in (("dev", 5, 1), ("test", 8, 2)):
        rows = [vars(question) for question in questions(each, seed)]
        write_rows(tmp_path / "data" / "mmlu" / f"{split}.jsonl", rows)
    return tmp_path / "data"


@pytest.fixture
def quiz() -> mmlu_ways.Quiz:
    return make_quiz()


def make_quiz(taught: str = "") -> mmlu_ways.Quiz:
    """A small model with questions; the tokenizer is taught by a text, by default one with spaced letters."""
    model, tokenizer, solved = make_model(context=2048), make_tokenizer(taught), questions(5, 1)
    exam = prepare(tokenizer, questions(6, 2), solved, 5, 2048, mmlu_ways.PROMPT)
    write = PromptWriter(solved, mmlu_ways.PROMPT)
    items = [write(question, shots) for question, shots in zip(exam.questions, exam.shots, strict=True)]
    return mmlu_ways.Quiz(model, tokenizer, exam, items, "a test")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A random LLaMA with its tokenizer."""
    make_model(context=2048).save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


GIVEN = argparse.Namespace(batch_size="auto", lm_eval_batch_size=4)


def predictions(choices: list[Choice]) -> list[int]:
    return [choice.prediction for choice in choices]


def test_one_prompt_at_a_time_and_ours_choose_the_same(quiz: mmlu_ways.Quiz) -> None:
    slow, fast = mmlu_ways.timed("qlora", quiz, GIVEN), mmlu_ways.timed("ours", quiz, GIVEN)
    assert predictions(slow["choices"]) == predictions(fast["choices"]) and len(set(predictions(fast["choices"]))) > 1
    assert slow["passes"] == 18 and slow["columns"] == sum(item.length for item in quiz.exam.encoded)
    # Examples once per subject, questions with little fill, and a few tokens to try the model on.
    once = len({item.start for item in quiz.exam.encoded}), sum(len(item.rest) for item in quiz.exam.encoded)
    assert once[0] == 3 and once[1] < fast["columns"] < 0.6 * slow["columns"]
    assert fast["characters"] < 0.4 * slow["characters"]


@pytest.mark.parametrize("taught", ["", "foxes"], ids=["one token", "space and letter"])
def test_lm_eval_chooses_the_same(taught: str) -> None:
    """On the same texts, with lm-eval's own prompt."""
    quiz = make_quiz(taught)
    pytest.importorskip("lm_eval", reason=f"lm_eval is not installed: {mmlu_ways.LM_EVAL}")
    theirs, fast = mmlu_ways.timed("lm_eval", quiz, GIVEN), mmlu_ways.timed("ours", quiz, GIVEN)
    assert predictions(theirs["choices"]) == predictions(fast["choices"])
    (row,) = mmlu_ways.agreement({"lm_eval": theirs["choices"], "ours": fast["choices"]})
    assert row["same"] == 18 and row["score_gap"] < 1e-3
    assert theirs["columns"] >= sum(item.length for item in quiz.exam.encoded), "one pass per question, fill besides"
    assert theirs["passes"] < 18


def test_a_slice_keeps_subjects_whole() -> None:
    every = questions(4, 0)
    some = mmlu_ways.slice_of(every, 6, seed=1)
    assert len(some) == 6 and len({question.subject for question in some[:4]}) == 1
    assert mmlu_ways.slice_of(every, 9, seed=1)[:6] == some
    assert sorted(mmlu_ways.slice_of(every, None, 0), key=every.index) == every
    orders = {tuple(q.subject for q in mmlu_ways.slice_of(every, None, seed)) for seed in range(8)}
    assert len(orders) > 2


def test_disagreements_are_counted_with_how_close_they_were() -> None:
    ours = [Choice(0, (-1.0, -2.0)), Choice(1, (-1.5, -1.4))]
    theirs = [Choice(0, (-2.0, -3.0)), Choice(0, (-1.45, -1.475))]
    (row,) = mmlu_ways.agreement({"qlora": theirs, "ours": ours})
    assert (row["way"], row["items"], row["same"], row["ties"]) == ("qlora", 2, 1, 0)
    assert row["closest"] == pytest.approx(0.025) and row["score_gap"] == pytest.approx(0.0625)


def test_a_disagreement_about_equal_letters_is_a_tie() -> None:
    ours, theirs = Choice(1, (-1.5, -1.4)), Choice(0, (-1.5, -1.5))
    (row,) = mmlu_ways.agreement({"lm_eval": [theirs, theirs], "ours": [ours, theirs]})
    assert (row["same"], row["ties"], row["closest"]) == (1, 1, 0.0)


def test_the_tokens_of_the_whole_test_are_counted_without_a_model(data: Path) -> None:
    tokenizer = make_tokenizer()
    found = mmlu_ways.cost_of_all(tokenizer, argparse.Namespace(data_root=str(data), shots=5))
    exam = prepare(tokenizer, questions(8, 2), questions(5, 1), 5, None, mmlu_ways.PROMPT)
    assert found["questions"] == 24 and found["whole"] == sum(row.length for row in exam.encoded)
    starts = {row.start for row in exam.encoded}
    assert len(starts) == 3 and found["shared"] == sum(map(len, starts)) + sum(len(row.rest) for row in exam.encoded)


def test_the_report_of_a_whole_comparison(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "others_now", lambda: 0.0)
    flags = ["--model", str(model), "--data_root", str(data), "--items", "10", "--ways", "qlora,ours"]
    monkeypatch.setattr(sys, "argv", ["mmlu.py", *flags, "--save", str(tmp_path / "out")])
    mmlu.main()
    (file,) = (tmp_path / "out").glob("mmlu-*.json")
    result = json.loads(file.read_text())
    assert result["quiz"]["questions"] == 10 and result["quiz"]["subjects"] == 2 and result["quiz"]["shortened"] == 0
    assert set(result["ways"]) == {"qlora", "ours"} and "choices" not in result["ways"]["ours"]
    assert result["answers"][0]["same"] == 10 and result["whole_test"]["questions"] == 24
    text = capsys.readouterr().out
    assert "qlora: 10 of 10 choices are ours" in text and "not measured: lm-eval's speed" in text
    assert file.with_suffix(".md").exists()


def test_goals_are_met_or_missed() -> None:
    result = {
        "whole_test": {"questions": 9, "whole": 640, "shared": 100},
        "ways": {"qlora": {"seconds": 40.0}, "lm_eval": {"seconds": 60.0}, "ours": {"seconds": 10.0}},
    }
    met = [line.partition(":")[0] for line in mmlu.goals(result)]
    assert met == ["met", "met", "MISSED"]


def test_ways_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lm_eval" else known(name))
    assert mmlu_ways.ways(None) == ("qlora", "ours")
    assert "lm_eval is not installed, so it is LEFT OUT; pip install -e .[lm-eval]" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"found --ways lm_eval, which is not installed; need it; pip install"):
        mmlu_ways.ways(["lm_eval", "ours"])
    for names in (["ours", "theirs"], ["qlora"]):
        with pytest.raises(UserError, match="need some of qlora, lm_eval, ours, ours among them"):
            mmlu_ways.ways(names)


def test_bad_input_is_named(data: Path, model: Path) -> None:
    with pytest.raises(UserError, match="found no model; need --model DIR or --quick"):
        mmlu_ways.load_quiz(mmlu.arguments([]))
    with pytest.raises(UserError, match="no data set MMLU for dev in nowhere"):
        mmlu_ways.load_quiz(mmlu.arguments(["--model", str(model), "--data_root", "nowhere"]))
    given = mmlu.arguments(["--model", str(model), "--data_root", str(data), "--context", "4096", "--items", "3"])
    assert mmlu_ways.load_quiz(given).model.config.max_position_embeddings == 4096
