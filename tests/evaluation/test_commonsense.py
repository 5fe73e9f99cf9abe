"""Commonsense tasks: their files, the answer that a text gives, and both ways to score."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import Score, load_command, read_output
from toy import WORDS, make_model, make_tokenizer

from sharelora.data.commonsense import TASKS, CommonsenseItem, find_answer, load_commonsense
from sharelora.evaluation.commonsense import choices, prompts, questions
from sharelora.evaluation.generation.job import GenerationJob, GenerationResult
from sharelora.evaluation.generation.settings import Generated, GenerationSettings
from sharelora.evaluation.reference import generate_one_by_one, score_answers_one_by_one
from sharelora.evaluation.subject import Subject
from sharelora.models.load import load_base, load_tokenizer
from sharelora.support.errors import UserError
from sharelora.support.files import write_json

COMMAND = load_command("commonsense")


def row(words: Sequence[str], answer: str, question: str = "Which?") -> dict[str, str]:
    """A row of a published file."""
    text = f"Please choose {words[0].rstrip('1')}: {question}\n\nAnswer format: {'/'.join(words)}"
    return {"instruction": text, "input": "", "output": f"the correct answer is {answer}", "answer": answer}


def rows(task: str, count: int, seed: int) -> list[dict[str, str]]:
    rng, words = random.Random(f"{task} {seed}"), TASKS[task][:4]
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 9))) + "?" for _ in range(count)]
    return [row(words, rng.choice(words), text) for text in texts]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """All eight tasks."""
    for task in TASKS:
        write_json(tmp_path / "data" / "commonsense" / task / "test.json", rows(task, 6, 1))
    return tmp_path / "data"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model(context=512).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def says(text: Callable[[int], str]) -> Callable[[GenerationJob, str], GenerationResult]:
    """A stand-in for the model's writing: what it writes for the n-th prompt."""

    def write(job: GenerationJob, title: str) -> GenerationResult:
        texts = [Generated(text(number), 7, "eos") for number in range(len(job.prompts))]
        return GenerationResult(texts, 99, 0, None, job.begin)

    return write


@pytest.fixture
def score(data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Score:
    def go(*flags: str, write: Any = None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        out, named = tmp_path / "out", ["--data_root", str(data), "--model", str(model)]
        words = ["--output", str(out), *named, "--max_new_tokens", "6", *flags]
        with monkeypatch.context() as patch:
            if write is not None:
                patch.setattr("sharelora.evaluation.commonsense.generate_texts", write)
            COMMAND.main(words)
        return read_output(out, "texts.jsonl" if "--generate_only" in flags else "predictions.jsonl")

    return go


@pytest.mark.parametrize(
    ("task", "text", "answer"),
    [
        ("boolq", "the correct answer is true", "true"),
        ("boolq", "False. It is not true.", "false"),
        ("piqa", "Solution2 is better than solution1", "solution2"),
        ("social_i_qa", "ANSWER3", "answer3"),
        ("ARC-Easy", "the answer is answer5", "answer5"),
        ("hellaswag", "ending4ending1", "ending4"),
        ("winogrande", "option 1, no: option2", "option2"),
        ("winogrande", "answer1", None),
        ("boolq", "", None),
    ],
)
def test_the_answer_is_the_first_of_the_tasks_words(task: str, text: str, answer: str | None) -> None:
    assert find_answer(task, text) == answer


def test_items_are_what_the_files_say(data: Path) -> None:
    items = load_commonsense(None, data)
    assert [item.task for item in items] == [task for task in TASKS for _ in range(6)]
    assert {item.answers for item in items if item.task == "winogrande"} == {("option1", "option2")}
    only = load_commonsense(("piqa", "boolq", "piqa"), data)
    assert [item.task for item in only] == ["piqa"] * 6 + ["boolq"] * 6


def test_an_item_may_have_fewer_or_more_options_than_others(tmp_path: Path) -> None:
    every = [row([f"answer{n}" for n in range(1, count + 1)], "answer3") for count in (3, 4, 5)]
    write_json(tmp_path / "commonsense" / "ARC-Easy" / "test.json", every)
    assert [len(item.answers) for item in load_commonsense(["ARC-Easy"], tmp_path)] == [3, 4, 5]


def test_prompts_are_those_of_tuning_in_two_parts(data: Path) -> None:
    items = load_commonsense(("boolq", "piqa"), data)
    pairs = prompts(items)
    assert len({start for start, _ in pairs}) == 2 and all(text.startswith(" ") for _, text in pairs)
    start, text = pairs[0]
    assert start.endswith("### Instruction:\nPlease choose true:")
    assert start + text == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\n{items[0].instruction}\n\n### Response: "
    )
    (start, text), *_ = prompts(items[:1])
    assert text and (start + text).endswith("### Response: ")


def test_by_likelihood(score: Score, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, records = score("--by", "likelihood")
    found = result["metrics"]["likelihood"]
    assert result["kind"] == "commonsense" and found["questions"] == len(records) == 48
    right = [row["likelihood"]["prediction"] == row["answer"] for row in records]
    each = {task: [ok for ok, row in zip(right, records, strict=True) if row["task"] == task] for task in TASKS}
    assert found["accuracy_micro"] == pytest.approx(sum(right) / 48) and found["right"] == sum(right)
    assert found["accuracy"] == pytest.approx(sum(sum(oks) / 6 for oks in each.values()) / 8)
    assert {task: cell["right"] for task, cell in found["tasks"].items()} == {t: sum(ok) for t, ok in each.items()}
    assert result["metrics"]["commonsense_likelihood"] == found["accuracy"]
    assert found["tokens"] < found["prompt_tokens"] and found["accuracy_stderr"] > 0
    items = load_commonsense(None, data)
    expected = score_answers_one_by_one(make_model(context=512), make_tokenizer(), choices(items), ())
    predictions = [item.answers[c.prediction] for item, c in zip(items, expected.choices, strict=True)]
    assert [row["likelihood"]["prediction"] for row in records] == predictions
    assert len(set(predictions)) > 6
    printed = capsys.readouterr().out
    assert all(task in printed for task in TASKS) and "mean over tasks" in printed


def test_by_what_is_written(score: Score, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = load_commonsense(None, data)

    def text(number: int) -> str:
        return "no idea" if number % 5 == 0 else f"The correct answer is {items[number].answer.upper()}"

    result, records = score(write=says(text))
    found, other = result["metrics"]["generated"], result["metrics"]["likelihood"]
    assert found["unanswered"] == 10 and found["right"] == 38 and found["tokens"] == 7 * 48
    assert found["accuracy_micro"] == pytest.approx(38 / 48) and other["questions"] == 48
    assert records[0]["generated"] == {
        "prediction": None,
        "right": False,
        "text": "no idea",
        "tokens": 7,
        "ended": "eos",
    }
    assert records[1]["generated"]["prediction"] == items[1].answer and "scores" in records[1]["likelihood"]
    assert "10 texts WITHOUT AN ANSWER counted as wrong" in capsys.readouterr().out
    result, records = score("--by", "generated", write=says(text))
    assert set(result["metrics"]) == {"commonsense_generated", "generated", "prompts_begin", "peak_memory_bytes"}
    assert "likelihood" not in records[0]


def test_the_texts_are_those_of_the_prompts(score: Score, data: Path, model: Path) -> None:
    result, records = score("--tasks", "boolq,winogrande")
    items = load_commonsense(("boolq", "winogrande"), data)
    assert [prompt.prefix + prompt.text for prompt in questions(items)] == [a + b for a, b in prompts(items)]
    plain = generate_one_by_one(
        load_base(str(model)), load_tokenizer(str(model)), questions(items), GenerationSettings(6), ()
    )
    assert [row["generated"]["text"] for row in records] == [text.text for text in plain]
    found = result["metrics"]["generated"]
    assert found["texts"] == found["questions"] == result["metrics"]["likelihood"]["questions"] == 12
    assert found["tokens"] == sum(text.tokens for text in plain) and found["texts_found_before"] == 0
    assert len({text.text for text in plain}) > 3


def test_generation_and_scoring_can_be_two_runs(
    score: Score, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result, texts = score("--tasks", "boolq", "--generate_only")
    assert result == {} and len(texts) == 6 and "nothing was scored" in capsys.readouterr().out
    monkeypatch.setattr(Subject, "load", lambda *_: pytest.fail("the model was loaded"))
    result, records = score("--tasks", "boolq", "--by", "generated")
    assert [row["generated"]["text"] for row in records] == [row["text"] for row in texts]
    assert result["metrics"]["generated"]["texts_found_before"] == 6
    with pytest.raises(UserError, match=r"made with prompts 6, this run has 12; .*--overwrite"):
        score("--tasks", "boolq,piqa")


def test_some_tasks_and_a_limit(score: Score) -> None:
    _, records = score("--tasks", "boolq,ARC-Challenge", "--limit", "6")
    assert sorted(row["task"] for row in records) == ["ARC-Challenge"] * 3 + ["boolq"] * 3
    assert [row["instruction"] for row in records] == [
        row["instruction"] for row in score("--tasks", "boolq,ARC-Challenge", "--limit", "6", "--batch_size", "2")[1]
    ]


def test_a_dry_run_writes_nothing(data: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    COMMAND.main(["--output", str(out), "--data_root", str(data), "--model", str(model), "--dry_run"])
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--tasks", "bolq"), r"found commonsense task 'bolq'; .*did you mean boolq"),
        (("--tasks", "arc-easy"), "did you mean ARC-Easy"),
        (("--tasks", "boolq,,piqa"), "need names separated by commas"),
        (("--by", "guess"), "--by"),
        (("--max_new_tokens", "0"), "at least 1"),
        (("--max_length", "9", "--by", "likelihood"), "with more than 9 tokens"),
        (("--max_length", "9"), "with more than 3 tokens.*need prompt and 6 new tokens within 9"),
        (("--generate_only", "--by", "likelihood"), "found --generate_only with --by likelihood"),
        (("--engine", "vllm"), "found --engine vllm with --by both; .*pass --by generated"),
        (("--batch_size", "none"), "batch size none"),
        (("--data_root", "nowhere"), r"found no boolq, piqa, .* in nowhere/commonsense; need <task>/test\.json"),
    ],
)
def test_bad_input(score: Score, tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        score(*flags)
    assert not (tmp_path / "out" / "predictions.jsonl").exists()


def test_missing_tasks_are_named_with_what_can_be_asked(score: Score, data: Path) -> None:
    for task in ("piqa", "hellaswag"):
        (data / "commonsense" / task / "test.json").unlink()
    there = "boolq,social_i_qa,winogrande,ARC-Easy,ARC-Challenge,openbookqa"
    with pytest.raises(UserError, match=rf"found no piqa, hellaswag in .*--tasks {re.escape(there)}$"):
        score()
    assert len(score("--tasks", there)[1]) == 36


def test_without_a_folder(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    monkeypatch.delenv("SHARELORA_DATA", raising=False)
    with pytest.raises(UserError, match=r"found no folder of commonsense tasks.*--data_root.*--tiny"):
        load_commonsense(("boolq",))
    monkeypatch.setenv("SHARELORA_DATA", str(data))
    assert len(load_commonsense(("boolq",))) == 6


WORDS_OF_PIQA = ["solution1", "solution2"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": "solution3"}, "answer is 'solution3', not one of solution1/solution2"),
        ({"answer": None}, "nothing in column answer"),
        ({"answer": ["solution1"]}, "a list in column answer"),
        ({"instruction": "Which one?"}, "the instruction ends with 'Which one\\?'"),
        ({"instruction": "Answer format: solution1/solution2"}, "the instruction ends with"),
        ({"instruction": "What? Answer format: solution1"}, "the instruction ends with"),
        ({"instruction": "What? Answer format: option1/option2"}, "the instruction ends with"),
        ({"output": "the correct answer is solution1"}, "output is 'the correct answer is solution1', but answer is"),
        ({"output": "no answer"}, "output is 'no answer'"),
    ],
)
def test_a_malformed_item_names_file_and_row(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    good = row(WORDS_OF_PIQA, "solution2")
    write_json(tmp_path / "commonsense" / "piqa" / "test.json", [good, good | change])
    with pytest.raises(UserError, match=rf"piqa/test\.json, row 2: {reason}.*; need instruction, which ends with"):
        load_commonsense(("piqa",), tmp_path)


def test_an_item_without_a_published_output_is_fine(tmp_path: Path) -> None:
    made = {name: text for name, text in row(WORDS_OF_PIQA, "solution2").items() if name in ("instruction", "answer")}
    write_json(tmp_path / "commonsense" / "piqa" / "test.json", [made])
    assert load_commonsense(("piqa",), tmp_path) == [
        CommonsenseItem("piqa", made["instruction"], "", ("solution1", "solution2"), "solution2")
    ]


@pytest.mark.realdata
def test_the_real_files(shared_data: Path) -> None:
    with pytest.raises(UserError, match="found no piqa, hellaswag in"):
        load_commonsense(None, shared_data)
    sizes = {"boolq": 3270, "social_i_qa": 1954, "winogrande": 1267, "ARC-Easy": 2376, "ARC-Challenge": 1172}
    items = load_commonsense([*sizes, "openbookqa"], shared_data)
    assert {task: sum(item.task == task for item in items) for task in sizes} == sizes
    assert len(items) == sum(sizes.values()) + 500
    assert {len(item.answers) for item in items if item.task == "ARC-Easy"} == {3, 4, 5}
