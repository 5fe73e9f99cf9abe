"""MMLU-Pro: its files, answers that disagree, up to ten letters, and with how many examples it is asked."""

from __future__ import annotations

import logging
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from commands import Score, load_command, read_output, write_rows
from toy import WORDS, make_model, make_tokenizer

from sharelora.data.mmlu_pro import has_examples, load_mmlu_pro
from sharelora.data.questions import LETTERS, Question
from sharelora.evaluation.reference import score_one_by_one
from sharelora.evaluation.tokens import Item
from sharelora.support import hub
from sharelora.support.errors import UserError

ROW = {
    "question_id": 7,
    "question": "What falls?",
    "options": ["up", "it", "all"],
    "answer": "B",
    "answer_index": 1,
    "category": "computer science",
    "src": "x",
}
CATEGORIES = ("business", "computer science")


def rows(each: int, seed: int) -> list[dict[str, Any]]:
    """Questions with three to ten options."""
    rng, found = random.Random(seed), []
    for category in CATEGORIES:
        for number in range(each):
            count = 3 + number % 8
            answer = rng.randrange(count)
            text = "Which is " + " ".join(rng.choices(WORDS, k=rng.randint(1, 6))) + "?"
            found.append(
                ROW
                | {
                    "question_id": 100 * seed + len(found),
                    "question": text,
                    "options": rng.sample(WORDS, count),
                    "answer": LETTERS[answer],
                    "answer_index": answer,
                    "category": category,
                }
            )
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Files of two categories."""
    write_rows(tmp_path / "data" / "mmlu_pro" / "validation.jsonl", rows(5, 1))
    write_rows(tmp_path / "data" / "mmlu_pro" / "test.jsonl", rows(16, 2))
    return tmp_path / "data"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaMA whose tokenizer knows ten letters."""
    folder = tmp_path_factory.mktemp("model")
    make_model(context=2048).save_pretrained(folder)
    make_tokenizer("Answer: A B C D E F G H I J which is " + " ".join(WORDS)).save_pretrained(folder)
    return folder


@pytest.fixture
def score(data: Path, model: Path, tmp_path: Path) -> Score:
    main = load_command("mmlu_pro").main

    def go(*flags: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        main(["--output", str(tmp_path / "out"), "--data_root", str(data), "--model", str(model), *flags])
        return read_output(tmp_path / "out")

    return go


def test_the_result_is_what_the_records_say(score: Score, capsys: pytest.CaptureFixture[str]) -> None:
    result, records = score()
    metrics = result["metrics"]
    assert result["kind"] == "mmlu_pro" and metrics["questions"] == len(records) == 32
    assert metrics["accuracy"] == pytest.approx(sum(row["prediction"] == row["answer"] for row in records) / 32)
    assert set(metrics["subjects"]) == set(CATEGORIES) and metrics["categories"] == {}
    assert metrics["chance"] == pytest.approx(sum(1 / n for n in range(3, 11)) / 8)
    assert [row["id"] for row in records] == [str(200 + n) for n in range(32)]
    assert Counter(len(row["scores"]) for row in records) == dict.fromkeys(range(3, 11), 4)
    assert {row["shots"] for row in records} == {5}
    assert metrics["wrong_answer_index"] == []
    assert "MMLU-Pro test, 5-shot" in capsys.readouterr().out
    assert len({row["prediction"] for row in records}) > 4, "all answers alike would prove nothing"


def test_whole_prompts_one_at_a_time_agree(score: Score, data: Path, model: Path) -> None:
    _, records = score("--limit", "16")
    tokenizer, asked = make_tokenizer("Answer: A B C D E F G H I J which is " + " ".join(WORDS)), []
    solved = load_mmlu_pro("val", data).questions
    header = "The following are multiple choice questions (with answers) about  {}.\n\n"

    def written(question: Question) -> str:
        lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, question.choices, strict=False)]
        return "\n".join([question.question, *lines, "Answer:"])

    chosen = {row["id"] for row in records}
    for question in (q for q in load_mmlu_pro("test", data).questions if q.id in chosen):
        examples = [q for q in solved if q.subject == question.subject]
        text = header.format(question.subject) + "".join(f"{written(q)} {q.answer}\n\n" for q in examples)
        answers = tuple(f" {letter}" for letter in LETTERS[: len(question.choices)])
        asked.append(Item("", text + written(question), answers))
    expected = score_one_by_one(make_model(context=2048), tokenizer, asked, ())
    assert [row["prediction"] for row in records] == [LETTERS[found.prediction] for found in expected.choices]


def test_without_a_validation_split_no_examples_are_shown_and_that_is_said(
    score: Score, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (data / "mmlu_pro" / "validation.jsonl").unlink()
    assert not has_examples(data)
    with caplog.at_level(logging.WARNING, "sharelora"):
        _, records = score("--limit", "4")
    assert {row["shots"] for row in records} == {0} and "WITHOUT EXAMPLES (0-shot)" in caplog.text
    with pytest.raises(UserError, match=r"no data set MMLU-Pro for val in .*: looked for mmlu_pro/val, .* as \.jsonl"):
        score("--shots", "5")


def test_an_index_that_contradicts_the_letter_is_counted_and_said(
    score: Score, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changed = rows(16, 2)
    changed[3]["answer_index"] = (changed[3]["answer_index"] + 1) % 3
    changed[20]["answer_index"] = 9
    del changed[21]["answer_index"]
    write_rows(data / "mmlu_pro" / "test.jsonl", changed)
    with caplog.at_level(logging.WARNING, "sharelora"):
        result, records = score()
    assert "2 of 32 questions" in caplog.text and "the letter counts: 203, 220" in caplog.text
    assert result["metrics"]["wrong_answer_index"] == ["203", "220"]
    assert [row["answer"] for row in records] == [row["answer"] for row in changed]
    result, _ = score("--subjects", "computer science")
    assert result["metrics"]["wrong_answer_index"] == ["220"]


def test_the_validation_split_is_asked_without_examples(score: Score) -> None:
    _, records = score("--split", "val")
    assert len(records) == 10 and {row["shots"] for row in records} == {0}


def test_letters_that_are_several_tokens_are_refused(data: Path, tmp_path: Path) -> None:
    from toy import make_tokenizer_of_parts

    from sharelora.evaluation.exams import MMLU_PRO, load_exam

    parts = {text: place + 3 for place, text in enumerate([" A", " B", " C", " ", "I", "J", "x"])}
    with pytest.raises(UserError, match="answers of other than one token"):
        load_exam(MMLU_PRO, make_tokenizer_of_parts(parts), "test", 0, None, root=data)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--split", "val", "--shots", "2"), "found split val with 2 examples; need 0"),
        (("--split", "dev"), "--split"),
        (("--shots", "9"), "--shots"),
        (("--subjects", "computer_science"), "did you mean computer science"),
        (("--data_root", "nowhere"), "no data set MMLU-Pro for test in nowhere"),
        (("--max_length", "9"), "with more than 9 tokens"),
        (("--adapter", "nowhere/at/all"), "nowhere/at/all"),
    ],
)
def test_bad_input(score: Score, tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        score(*flags)
    assert not (tmp_path / "out" / "predictions.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": "D"}, "answer is 'D', not one of A to C"),
        ({"answer": 1}, "must be text"),
        ({"answer_index": "1"}, "answer_index is '1', not a number"),
        ({"answer_index": True}, "answer_index is True"),
        ({"options": ["a"]}, "choices are"),
        ({"options": list("abcdefghijk")}, "choices are"),
        ({"options": ["a", None, "c"]}, "must be text"),
        ({"category": None}, "must be text"),
    ],
)
def test_a_malformed_question_names_file_and_row(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    write_rows(tmp_path / "mmlu_pro" / "test.jsonl", [ROW, ROW | change])
    with pytest.raises(UserError, match=rf"test\.jsonl, row 2: .*{reason}"):
        load_mmlu_pro("test", tmp_path)


def test_missing_columns_and_splits_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "mmlu_pro" / "test.jsonl", [{name: ROW[name] for name in ROW if name != "category"}])
    with pytest.raises(UserError, match="row 1: no column 'category'; need question_id, question, options"):
        load_mmlu_pro("test", tmp_path)
    with pytest.raises(UserError, match="need one of val, test"):
        load_mmlu_pro("dev", tmp_path)
    monkeypatch.delenv("SHARELORA_DATA", raising=False)
    monkeypatch.setattr(hub, "hub_reachable", lambda: False)
    with pytest.raises(UserError, match=r"hub cannot be reached; .*add --tiny"):
        load_mmlu_pro("test")
    assert has_examples()


def test_the_hub_is_asked_for_its_own_split_names(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def load(path: str, split: str) -> Any:
        asked.append((path, split))
        return datasets.Dataset.from_list([ROW])

    monkeypatch.delenv("SHARELORA_DATA", raising=False)
    monkeypatch.setattr(hub, "hub_reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert load_mmlu_pro("val").questions == [
        Question("computer science", "What falls?", ("up", "it", "all"), "B", "7")
    ]
    load_mmlu_pro("test")
    assert asked == [("TIGER-Lab/MMLU-Pro", "validation"), ("TIGER-Lab/MMLU-Pro", "test")]


@pytest.mark.realdata
def test_the_real_file(shared_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "sharelora"):
        found = load_mmlu_pro("test", shared_data)
    assert len(found.questions) == 12032 and found.disagreeing == ("3983",)
    assert "1 of 12032 questions" in caplog.text
    assert len({question.subject for question in found.questions}) == 14
    (question,) = [question for question in found.questions if question.id == "3983"]
    assert question.answer == "C"
