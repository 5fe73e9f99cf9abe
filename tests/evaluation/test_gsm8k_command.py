"""The GSM8K command: what it asks, writes and goes on from, how texts are scored, and what it refuses."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Score, load_command, read_output, write_rows
from peft import LoraConfig, get_peft_model
from toy import WORDS, make_model, make_tokenizer

from sharelora import ShareLoraConfig
from sharelora.data.formats import FORMATS
from sharelora.data.gsm8k import WordProblem, demonstrations, load_gsm8k
from sharelora.evaluation.generation.engine import TextStore
from sharelora.evaluation.generation.settings import Generated, GenerationSettings
from sharelora.evaluation.gsm8k import Gsm8kReport, table, write_prompts
from sharelora.evaluation.reference import generate_one_by_one
from sharelora.evaluation.subject import Subject
from sharelora.models.load import load_base, load_tokenizer
from sharelora.support.errors import UserError, run_main

main = load_command("gsm8k").main
SHORT = ("--shots", "1", "--max_new_tokens", "8")


def rows(count: int = 6) -> list[dict[str, str]]:
    return [
        {"question": f"Which {word} has {n} legs?", "answer": f"It has <<{n}*2={2 * n}>>{2 * n}.\n#### {2 * n:,}"}
        for n, word in enumerate(WORDS[:count])
    ]


def write_data(folder: Path, content: list[dict[str, Any]] | None = None) -> Path:
    write_rows(folder / "gsm8k" / "test.jsonl", rows() if content is None else content)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model(context=4096).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def go(data: Path, model: Path, out: Path) -> Score:
    """Run the command with more flags; returns the result, if there is one, and the records."""

    def run(*flags: str, base: bool = True) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        named = ["--model", str(model)] if base else []
        main(["--output", str(out), "--data_root", str(data), *named, *SHORT, *flags])
        return read_output(out, "texts.jsonl" if "--generate_only" in flags else "predictions.jsonl")

    return run


def answer_as(out: Path, texts: dict[int, str]) -> None:
    """Put other texts into the place of those that were generated."""
    head, *lines = (out / "generations.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    changed = [json.dumps({**row, "text": texts.get(row["prompt"], row["text"])}) for row in found]
    (out / "generations.jsonl").write_text("\n".join([head, *changed]) + "\n")


# What it asks and writes


def test_the_texts_are_those_of_the_prompts(go: Score, model: Path, data: Path) -> None:
    result, found = go()
    assert [row["question"] for row in found] == [row["question"] for row in rows()]
    assert [row["answer"] for row in found] == ["0", "2", "4", "6", "8", "10"]
    prompts = write_prompts(load_gsm8k("test", data), 1)
    settings = GenerationSettings(8, stop=("\nQuestion:",))
    expected = generate_one_by_one(load_base(str(model)), load_tokenizer(str(model)), prompts, settings, ())
    assert [(row["text"], row["tokens"], row["ended"]) for row in found] == [
        (text.text, text.tokens, text.ended) for text in expected
    ]
    metrics = result["metrics"]
    assert result["kind"] == "gsm8k" and metrics["questions"] == metrics["texts"] == 6
    assert metrics["tokens"] == sum(text.tokens for text in expected) and metrics["tokens_per_second"] > 0
    assert metrics["texts_found_before"] == 0 and sum(metrics["ended"].values()) == 6


def test_the_prompt_is_what_models_are_tuned_on() -> None:
    problem = WordProblem("Why?", "#### 1", Fraction(1))
    eight, none = (write_prompts([problem], shots)[0] for shots in (8, 0))
    assert eight.prefix == "".join(demonstrations()) and none.prefix == ""
    assert eight.text == none.text == FORMATS["GSM8K"][0].prompt({"question": "Why?"}) == "Question: Why?\n\nAnswer:"
    assert eight.prefix.startswith("Question: ") and eight.prefix.endswith("\n\n")


def test_drawn_texts_do_not_depend_on_the_batch_or_on_the_other_questions(go: Score, out: Path) -> None:
    drawn = ("--temperature", "0.8", "--top_p", "0.9", "--seed", "4")
    texts = {row["question"]: row["text"] for row in go(*drawn, "--batch_size", "1")[1]}
    some = {row["question"]: row["text"] for row in go(*drawn, "--limit", "3", "--overwrite")[1]}
    assert len(some) == 3 and all(texts[question] == text for question, text in some.items())
    greedy = {row["question"]: row["text"] for row in go("--overwrite")[1]}
    assert greedy != texts


# What prompts begin with


def test_prompts_begin_as_the_flag_says_and_that_is_said(
    go: Score, model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(load_gsm8k("test", data), 1)
    settings = GenerationSettings(8, stop=("\nQuestion:",))
    base, tokenizer = load_base(str(model)), load_tokenizer(str(model))
    seen = []
    for bos, token in (("always", "<s>"), ("never", None)):
        result, found = go("--bos", bos, "--overwrite")
        expected = generate_one_by_one(base, tokenizer, prompts, settings, (0,) if token else ())
        assert [row["text"] for row in found] == [text.text for text in expected]
        begin = {"token": token, "ids": [0] if token else [], "reason": f"--bos {bos}"}
        assert result["metrics"]["prompts_begin"] == begin and result["config"]["bos"] == bos
        assert f"prompts begin with {token or 'no special token'} (--bos {bos})" in capsys.readouterr().out
        seen.append(result["metrics"]["prompt_tokens"])
    assert seen[0] == seen[1] + 6
    result, found = go("--overwrite")
    # This tokenizer has a begin token and does not write it by itself.
    assert result["metrics"]["prompt_tokens"] == seen[1]
    assert result["metrics"]["prompts_begin"]["reason"] == "as the tokenizer writes texts"


def test_texts_of_before_there_was_a_choice_are_kept(go: Score, out: Path) -> None:
    go("--bos", "always")
    assert "begin" not in json.loads((out / "generations.jsonl").read_text().splitlines()[0])["settings"]
    assert go("--bos", "always")[0]["metrics"]["texts_found_before"] == 6
    with pytest.raises(UserError, match=r"made with begin None, this run has \[\]; .*--overwrite"):
        go("--bos", "never")
    go("--bos", "never", "--overwrite")
    with pytest.raises(UserError, match=r"made with begin \[\], this run has None; .*--overwrite"):
        go("--bos", "always")


@pytest.mark.parametrize(
    ("kind", "settings", "token"),
    [
        ("share", None, "<s>"),
        ("lora", None, None),
        ("lora", {"processes": 1, "source_max_len": 99}, "<s>"),
        ("lora", {"processes": 1, "seq_len": 512}, None),
        ("share", {"processes": 1, "seq_len": 512}, None),
        ("lora", {"editor": "of another program"}, None),
    ],
)
def test_an_adapter_is_asked_as_it_was_tuned(
    go: Score, model: Path, tmp_path: Path, kind: str, settings: dict[str, Any] | None, token: str | None
) -> None:
    common = {"r": 2, "target_modules": ["q_proj"]}
    config = ShareLoraConfig(share="a", **common) if kind == "share" else LoraConfig(**common)
    run = tmp_path / "run"
    get_peft_model(load_base(str(model)), config).save_pretrained(run / "adapter_model", save_embedding_layers=False)
    if settings is not None:
        (run / "settings.json").write_text(json.dumps(settings))
    result, _ = go("--limit", "1", "--adapter", str(run), base=False)
    begin = result["metrics"]["prompts_begin"]
    ours = kind == "share" or (settings or {}).get("processes") == 1
    assert begin["token"] == token
    assert begin["reason"] == (
        "as rows do when this project tunes such an adapter" if ours else "as the tokenizer writes texts"
    )


# How texts are scored


def test_both_readings_are_compared_exactly() -> None:
    problems = [WordProblem(f"q{n}", "", Fraction(answer)) for n, answer in enumerate(("18", "1000", "0.5", "-3", "7"))]
    texts = ["The final answer is $18.00", "So 1,000 in 3 days", "The final answer is 1/2. Or 2?", " -3", "none"]
    report = Gsm8kReport(problems, [Generated(text, 3, "eos") for text in texts])
    metrics = report.metrics()
    assert [row["right"] for row in report.rows()] == [True, False, True, False, False]
    assert [row["right_flexible"] for row in report.rows()] == [True, False, False, True, False]
    assert [row["prediction"] for row in report.rows()] == ["18", None, "0.5", None, None]
    assert [row["prediction_flexible"] for row in report.rows()] == ["18", "3", "2", "-3", None]
    assert (metrics["accuracy"], metrics["accuracy_flexible"]) == (0.4, 0.4)
    assert metrics["accuracy_stderr"] == pytest.approx((0.4 * 0.6 / 4) ** 0.5)
    assert (metrics["without_answer"], metrics["without_number"]) == (3, 1)


def test_answers_are_counted_by_the_rule_that_reads_them() -> None:
    texts = ["The final answer is 18", "\\\\boxed{18} in 3 days", "US$18", "none"]
    problems = [WordProblem(f"q{n}", "", Fraction(18)) for n in range(4)]
    report = Gsm8kReport(problems, [Generated(text, 3, "eos") for text in texts])
    metrics = report.metrics()
    assert (metrics["accuracy"], metrics["accuracy_flexible"], metrics["accuracy_any"]) == (0.25, 0.5, 0.75)
    assert metrics["read_by"] == {"marked": 1, "boxed": 1, "last": 1, "none": 1}
    assert [row["read_by"] for row in report.rows()] == ["marked", "boxed", "last", "none"]
    assert "read in any form: 1 marked, 1 boxed, 1 last, 1 none" in table("t", metrics)


def test_a_third_is_shown_as_it_is() -> None:
    report = Gsm8kReport([WordProblem("q", "", Fraction(1, 3))], [Generated("The final answer is 1/3", 3, "eos")])
    assert report.rows()[0]["prediction"] == report.rows()[0]["answer"] == "1/3" and report.rows()[0]["right"]


def test_generation_and_scoring_can_be_two_runs(
    go: Score, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result, found = go("--generate_only", "true")
    assert result == {} and "right" not in found[0] and len(found) == 6
    assert "nothing was scored" in capsys.readouterr().out
    answer_as(out, {0: " The final answer is 0", 3: " It is 6", 4: " The final answer is 9"})
    monkeypatch.setattr(Subject, "load", lambda *_: pytest.fail("the model was loaded"))
    result, found = go()
    assert [row["right"] for row in found] == [True, *[False] * 5]
    assert [row["right_flexible"] for row in found][3]
    metrics = result["metrics"]
    assert metrics["accuracy"] == pytest.approx(1 / 6) and metrics["texts_found_before"] == 6
    assert metrics["generation_seconds"] > 0, "the time that the first run took is not forgotten"
    assert "the marked answer" in capsys.readouterr().out


# What it goes on from


def test_a_killed_run_goes_on(go: Score, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep, kept = TextStore.add, []

    def add(store: TextStore, new: Any) -> None:
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(new)
        keep(store, new)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TextStore, "add", add)
        go("--batch_size", "1")
    assert not (out / "result.json").exists() and not (out / "predictions.jsonl").exists()
    result, found = go("--batch_size", "3")
    assert result["metrics"]["texts_found_before"] == 2
    assert found == go("--overwrite")[1]


def test_texts_of_other_settings_or_another_model_are_refused(
    go: Score, model: Path, out: Path, tmp_path: Path
) -> None:
    go()
    adapter = save_adapter(model, tmp_path / "adapter", "share")
    for flags, message in (
        (("--temperature", "0.5"), r"made with temperature 0.0, this run has 0.5; choose another --output"),
        (("--max_new_tokens", "9"), "made with max_new_tokens 8, this run has 9"),
        (("--limit", "2"), "made with prompts 6, this run has 2"),
        (("--shots", "2"), "made with prompts_sha256"),
        (("--adapter", str(adapter)), "made with adapter_sha256 None"),
        (("--bits", "32"), "made with bits 16, this run has 32"),
    ):
        with pytest.raises(UserError, match=message):
            go(*flags)
    assert len(go("--limit", "2", "--overwrite")[1]) == 2


def save_adapter(model: Path, folder: Path, kind: str) -> Path:
    common = {"r": 2, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
    config = ShareLoraConfig(share="a", **common) if kind == "share" else LoraConfig(**common)
    torch.manual_seed(3)
    adapted = get_peft_model(load_base(str(model)), config)
    for name, value in adapted.named_parameters():
        if "lora" in name:
            value.data.normal_(std=0.5)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.mark.parametrize("kind", ["share", "lora"])
def test_an_adapter_brings_its_base_and_its_plan(go: Score, model: Path, out: Path, tmp_path: Path, kind: str) -> None:
    adapter = save_adapter(model, tmp_path / "adapter", kind)
    go()
    texts = [json.loads(line)["text"] for line in (out / "predictions.jsonl").read_text().splitlines()]
    (out / "generations.jsonl").unlink()
    first, found = go("--adapter", str(adapter), base=False)
    assert first["model"] == str(model) and bool(first["plan"]) is (kind == "share")
    assert [row["text"] for row in found] != texts
    again, _ = go("--adapter", str(adapter), base=False)
    assert again["metrics"]["texts_found_before"] == 6 and again["plan"] == first["plan"]
    assert again["files"]["adapter"] == first["files"]["adapter"]


# What it refuses


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--engine", "torch"), r"--engine: invalid choice: 'torch'"),
        (("--engine", "vllm"), "vllm cannot be imported"),
        (("--temperature", "-1"), "found --temperature -1.0"),
        (("--temperature", "warm"), "--temperature"),
        (("--top_p", "0"), "found --top_p 0.0"),
        (("--max_new_tokens", "0"), "found --max_new_tokens 0"),
        (("--stop", "a", ""), "found --stop"),
        (("--shots", "9"), "--shots"),
        (("--split", "dev"), "--split"),
        (("--batch_size", "0"), "found batch size 0"),
        (("--max_length", "20"), "found 6 of 6 prompts with more than 12 tokens"),
        (("--data_root", "nowhere"), "no data set gsm8k for test in nowhere: looked for gsm8k/test as .jsonl"),
        (("--adapter", "nowhere/at/all"), "nowhere/at/all"),
        (("--limt", "3"), "did you mean --limit"),
    ],
)
def test_bad_input(go: Score, out: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], message: str) -> None:
    monkeypatch.setattr(Subject, "load", lambda *_: pytest.fail("the model was loaded"))
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=message):
        go(*flags)
    assert not out.exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q"}, "row 2: nothing in column answer"),
        (
            {"question": "q", "answer": "so it is 7"},
            "row 2: no '#### number' at the end of column answer: 'so it is 7'",
        ),
        ({"question": "q", "answer": "#### seven"}, "row 2: no '#### number'"),
        ({"question": ["q"], "answer": "#### 7"}, "row 2: a list in column question"),
    ],
)
def test_a_malformed_problem_is_named(go: Score, tmp_path: Path, row: dict[str, Any], message: str) -> None:
    folder = write_data(tmp_path / "bad", [rows()[0], row])
    with pytest.raises(UserError, match=f"test.jsonl, {message}"):
        go("--data_root", str(folder))


def test_a_damaged_line_is_named(go: Score, tmp_path: Path) -> None:
    folder = write_data(tmp_path / "bad")
    with open(folder / "gsm8k" / "test.jsonl", "a") as handle:
        handle.write('{"question": "q", "ans')
    with pytest.raises(UserError, match=r"test.jsonl has a damaged line 7"):
        go("--data_root", str(folder))


def test_a_quantised_base_is_nothing_for_vllm(go: Score, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharelora.evaluation.generation.job.require_vllm", lambda: None)
    with pytest.raises(UserError, match="found --engine vllm with --bits 4; need 16 or 32"):
        go("--engine", "vllm", "--bits", "4")


def test_vllm_is_given_what_the_flags_say(go: Score, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def stand_in(there: Any, encoded: Any, names: Any, settings: Any, missing: Any, store: Any, listener: Any) -> None:
        seen.append((there, len(encoded), settings, missing))
        store.add({key: Generated(" The final answer is 4", 6, "eos", 0.1) for key in missing})

    monkeypatch.setattr("sharelora.evaluation.generation.job.require_vllm", lambda: None)
    monkeypatch.setattr("sharelora.evaluation.generation.job.generate_with_vllm", stand_in)
    monkeypatch.setattr(Subject, "load", lambda *_: pytest.fail("the model was loaded"))
    result, _ = go("--engine", "vllm", "--dtype", "bf16")
    [(there, count, settings, missing)] = seen
    assert (there.base, there.adapter, there.dtype, there.context) == (str(model), None, "bf16", 4096)
    assert (count, len(missing), settings.max_new_tokens) == (6, 6, 8)
    assert result["metrics"]["right"] == 1


def test_a_dry_run_writes_nothing(go: Score, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Subject, "load", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(FileNotFoundError):
        go("--dry_run")
    assert not out.exists()


def test_a_bad_command_line_ends_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run_main(lambda: main(["--shot", "5"]))
    assert end.value.code == 2 and capsys.readouterr().err.endswith("did you mean --shots?\n")
