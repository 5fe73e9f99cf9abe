"""The MMLU command: which questions it asks, what it writes, and what it refuses."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from commands import FULL, Score, full, load_command, read_output, write_rows
from peft import LoraConfig, get_peft_model
from toy import WORDS, make_model, make_tokenizer

from sharelora import ShareLoraConfig
from sharelora.data.mmlu import load_mmlu
from sharelora.data.questions import Question
from sharelora.evaluation.exam_report import examine
from sharelora.evaluation.exams import PreparedExam, choose, prepare
from sharelora.evaluation.reference import score_one_by_one
from sharelora.evaluation.subject import Subject
from sharelora.support.errors import UserError, run_main

main = load_command("mmlu").main

SUBJECTS = ("anatomy", "virology", "sociology")


def make_questions(each: int, seed: int, longest: int = 6) -> list[Question]:
    rng = random.Random(seed)
    return [
        Question(
            subject,
            "Which is " + " ".join(rng.choices(WORDS, k=rng.randint(1, longest))) + "?",
            tuple(rng.sample(WORDS, 4)),
            rng.choice("ABCD"),
        )
        for subject in SUBJECTS
        for _ in range(each)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MMLU files of three subjects."""
    folder = tmp_path_factory.mktemp("data")
    for split, each, seed in (("dev", 5, 1), ("val", 4, 2), ("test", 10, 3)):
        write_rows(folder / "mmlu" / f"{split}.jsonl", [vars(question) for question in make_questions(each, seed)])
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaMA with its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    make_model(context=2048).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def score(data: Path, model: Path, tmp_path: Path) -> Score:
    """Run the command with more flags; returns the result and the records."""

    def go(*flags: str, base: bool = True) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        out = tmp_path / "out"
        words = ["--output", str(out), "--data_root", str(data), *(["--model", str(model)] if base else []), *flags]
        main(words)
        return read_output(out)

    return go


def test_the_result_is_what_the_records_say(score: Score, capsys: pytest.CaptureFixture[str]) -> None:
    result, rows = score("--shots", "2")
    metrics = result["metrics"]
    assert result["kind"] == "mmlu" and metrics["questions"] == len(rows) == 30
    right = [row["prediction"] == row["answer"] for row in rows]
    assert metrics["accuracy"] == pytest.approx(sum(right) / 30)
    each = {s: [ok for ok, row in zip(right, rows, strict=True) if row["subject"] == s] for s in SUBJECTS}
    assert metrics["accuracy_macro"] == pytest.approx(sum(sum(v) / len(v) for v in each.values()) / 3)
    assert {name: found["right"] for name, found in metrics["subjects"].items()} == {s: sum(each[s]) for s in SUBJECTS}
    assert set(metrics["categories"]) == {"other", "social sciences"}
    for row in rows:
        assert row["prediction"] == max(row["scores"], key=row["scores"].get)
    assert result["files"]["predictions"]["sha256"] and "all questions" in capsys.readouterr().out


def test_cache_and_whole_prompts_agree(score: Score) -> None:
    shared, whole = score("--shots", "5"), score("--shots", "5", "--no_cache", "--batch_size", "2")
    assert [row["prediction"] for row in shared[1]] == [row["prediction"] for row in whole[1]]
    assert shared[0]["metrics"]["tokens"] < 0.4 * whole[0]["metrics"]["tokens"]
    assert shared[0]["metrics"]["prompts_read_whole"] == 0 and whole[0]["metrics"]["prompts_read_whole"] == 30


def test_some_subjects_only(score: Score) -> None:
    every, some = score("--shots", "2"), score("--shots", "2", "--subjects", "virology, anatomy")
    assert some[1] == [row for row in every[1] if row["subject"] != "sociology"]
    assert set(some[0]["metrics"]["subjects"]) == {"anatomy", "virology"}
    assert some[0]["metrics"]["tokens"] < every[0]["metrics"]["tokens"]


@pytest.mark.parametrize("kind", ["share", "lora"])
def test_an_adapter_brings_its_base(score: Score, model: Path, tmp_path: Path, kind: str) -> None:
    from sharelora.models.load import load_base

    common = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
    config = ShareLoraConfig(share="a", **common) if kind == "share" else LoraConfig(**common)
    adapted = get_peft_model(load_base(str(model)), config)
    for name, value in adapted.named_parameters():
        if "lora" in name:
            value.data.normal_(std=0.3)
    run = tmp_path / "run"
    adapted.save_pretrained(run / "adapter_model", save_embedding_layers=False)
    plain = score("--shots", "0")
    result, rows = score("--shots", "0", "--adapter", str(run), base=False)
    assert result["model"] == str(model)
    assert result["files"]["adapter"]["path"].endswith("adapter_model/adapter_model.safetensors")
    assert bool(result["plan"]) == (kind == "share")
    assert [row["scores"] for row in rows] != [row["scores"] for row in plain[1]]
    question = load_mmlu("test", result["config"]["data_root"])[0]
    # An adapter of this project was tuned with the begin token, which this tokenizer does not write by itself.
    exam = prepare(make_tokenizer(), [question], [], 0, None, begin=(0,) if kind == "share" else ())
    assert result["metrics"]["prompts_begin"]["token"] == ("<s>" if kind == "share" else None)
    assert rows[0]["scores"] == pytest.approx(
        dict(zip("ABCD", examine(adapted.eval(), exam).scored.choices[0].scores, strict=True)), abs=1e-4
    )


def test_an_adapter_of_another_model_is_refused(score: Score, tmp_path: Path) -> None:
    other = get_peft_model(make_model("gpt2"), ShareLoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    other.save_pretrained(tmp_path / "other", save_embedding_layers=False)
    with pytest.raises(UserError, match=r"adapter .* does not fit|base model|match nothing in the model"):
        score("--adapter", str(tmp_path / "other"))
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_limit_is_spread_over_the_subjects() -> None:
    questions = make_questions(20, 0)
    small, large = choose(questions, 7, seed=3), choose(questions, 20, seed=3)
    assert sorted(Counter(question.subject for question in small).values()) == [2, 2, 3]
    assert set(small) <= set(large), "a longer sample contains the shorter one"
    assert small == choose(questions, 7, seed=3) != choose(questions, 7, seed=4)
    assert [questions.index(question) for question in small] == sorted(questions.index(q) for q in small)
    assert choose(questions, None) == choose(questions, 999) == questions


def test_long_prompts_lose_whole_examples_aloud(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer, dev, questions = make_tokenizer(), make_questions(5, 1), make_questions(4, 2, longest=40)
    whole = prepare(tokenizer, questions, dev, 5, None)
    lengths = [row.length for row in whole.encoded]
    assert not whole.shortened and not caplog.text
    limit = sorted(lengths)[6]
    exam = prepare(tokenizer, questions, dev, 5, limit)
    assert [shots < 5 for shots in exam.shots] == [length > limit for length in lengths]
    assert all(row.length <= limit for row in exam.encoded)
    assert f"5 of 12 prompts with 5 examples are longer than {limit} tokens" in caplog.text
    short = next(index for index, shots in enumerate(exam.shots) if shots < 5)
    alone = prepare(tokenizer, [questions[short]], dev, exam.shots[short], None)
    assert exam.encoded[short].ids == alone.encoded[0].ids, "the first examples stay"
    with pytest.raises(UserError, match="12 of 12 prompts with more than 9 tokens"):
        prepare(tokenizer, questions, dev, 5, 9)


def test_questions_that_are_too_long_by_themselves_are_refused_or_left_out_aloud(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokenizer, questions, dev = make_tokenizer(), make_questions(6, 0), make_questions(5, 1)
    bare = [row.length for row in prepare(tokenizer, questions, dev, 0, None).encoded]
    limit = sorted(bare)[-3]
    lost = [question for question, length in zip(questions, bare, strict=True) if length > limit]
    assert lost
    with pytest.raises(UserError, match=rf"found {len(lost)} of 18 prompts with more than {limit} tokens"):
        prepare(tokenizer, questions, dev, 5, limit)
    exam = prepare(tokenizer, questions, dev, 5, limit, leave_out=True)
    assert exam.questions == tuple(question for question in questions if question not in lost)
    assert sum(exam.left_out.values()) == len(lost)
    assert f"{len(lost)} of 18 questions are longer than {limit} tokens even without examples" in caplog.text
    with pytest.raises(UserError, match="found 18 of 18 prompts"):
        prepare(tokenizer, questions, dev, 5, 1, leave_out=True)


def test_qlora_prompt_text() -> None:
    tokenizer, dev = make_tokenizer(), make_questions(5, 1)
    question = Question("high_school_fox", "What?", ("fox", "wolf", "coat", "hat"), "B")
    examples = [Question("high_school_fox", q.question, q.choices, q.answer) for q in dev[:1]]
    exam: PreparedExam = prepare(tokenizer, [question], examples, 1, None)
    shown = examples[0]
    options = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", shown.choices, strict=True))
    assert tokenizer.decode(exam.encoded[0].ids[1:]) == (
        "The following are multiple choice questions (with answers) about  high school fox.\n\n"
        f"{shown.question}\n{options}\nAnswer: {shown.answer}\n\n"
        "What?\nA. fox\nB. wolf\nC. coat\nD. hat\nAnswer:"
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--split", "dev", "--shots", "5"), "the examples themselves"),
        (("--shots", "9"), "--shots"),
        (("--limit", "0"), "at least 1"),
        (("--batch_size", "0"), "batch size 0"),
        (("--spilt", "val"), "did you mean --split"),
        (("--adapter", "nowhere/at/all"), "nowhere/at/all"),
        (("--data_root", "nowhere"), "no data set MMLU for test in nowhere"),
        (("--max_length", "9"), "with more than 9 tokens.* or pass --skip_too_long"),
        (("--subjects", "anatomie"), "found subject 'anatomie'; need one of the 3 that .*; did you mean anatomy"),
        (("--subjects", "anatomy,xyz"), "found subject 'xyz'; .*there are anatomy, sociology, virology"),
        (("--subjects", "anatomy,"), "need names separated by commas"),
    ],
)
def test_bad_input(score: Score, tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        score(*flags)
    assert not (tmp_path / "out" / "predictions.jsonl").exists()


def test_without_any_model(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither --model nor --adapter"):
        main(["--output", str(tmp_path), "--data_root", str(data)])


def test_a_bad_command_line_ends_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run_main(lambda: main(["--shot", "5"]))
    assert end.value.code == 2
    expected = "error: found unknown flag --shot; need a flag that this command has; did you mean --shots?\n"
    assert capsys.readouterr().err == expected


def test_a_dry_run_writes_nothing(data: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(["--output", str(out), "--data_root", str(data), "--model", str(model), "--dry_run"])
    assert not out.exists()


@pytest.mark.realdata
@pytest.mark.slow
def test_real_questions(shared_data: Path, shared_models: Path) -> None:
    """Real questions and a really trained small model: the engine agrees with the plain way on every choice."""
    from sharelora.evaluation.exams import MMLU, load_exam
    from sharelora.evaluation.tokens import Item, encode_items
    from sharelora.models.load import load_base, load_tokenizer

    place = str(shared_models / "tiny-llama")
    tokenizer, loaded = load_tokenizer(place), load_base(place, bits=32)
    exam = load_exam(MMLU, tokenizer, "val", 5, 1024, count=20, root=shared_data)
    prompts = [tokenizer.decode(row.ids[1:]) for row in exam.encoded]
    items = [Item("", text, (" A", " B", " C", " D")) for text in prompts]
    assert len(encode_items(tokenizer, items)) == 20
    found, expected = examine(loaded, exam).scored, score_one_by_one(loaded, tokenizer, items)
    assert [choice.prediction for choice in found.choices] == [choice.prediction for choice in expected.choices]


def test_a_model_that_does_not_fit_into_memory_is_one_line(score: Score, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Subject.load, "__defaults__", (full,))
    with pytest.raises(UserError, match=FULL.format("bits 4")):
        score()
