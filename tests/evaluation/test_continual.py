"""Tasks learnt one after the other: what is scored, what is gone on from, what is left, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from continual_runs import command, tune, words, write_base, write_tasks
from sandboxes import skip_without_bubblewrap

from sharelora.continual import scores, stages
from sharelora.data import DataArguments, build_data
from sharelora.evaluation.generation.settings import Generated
from sharelora.metrics.continual import summarise
from sharelora.models.adapter import load_adapter
from sharelora.models.load import load_base, load_tokenizer
from sharelora.reporting.compare import compare
from sharelora.support.errors import UserError
from sharelora.training.trainer import ShareTrainer

TASKS = ("alpaca", "gsm8k", "code")
Tune = Callable[..., None]


def read(file: Path) -> Any:
    return json.loads(file.read_text())


@pytest.fixture(autouse=True)
def surroundings(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small tasks; the plot of a stage's loss, tested by itself, is not drawn."""
    monkeypatch.setenv("SHARELORA_DATA", str(data))
    monkeypatch.delenv("SHARELORA_TINY", raising=False)
    monkeypatch.setattr("sharelora.reporting.history._plot", lambda rows: b"no plot in this test")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def finished(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of all tasks with two ways of sharing."""
    out = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARELORA_DATA", str(data))
        patch.delenv("SHARELORA_TINY", raising=False)
        patch.setattr("sharelora.reporting.history._plot", lambda rows: b"no plot in this test")
        tune(model, out, "--share", "none", "a")
    return out


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def go(model: Path, out: Path) -> Tune:
    """Run the command with more flags; two tasks and one way of sharing unless they say otherwise."""
    return lambda *more: tune(model, out, "--tasks", "gsm8k,code", "--share", "ab", *more)


# What is scored


def loss_row_by_row(model: Any, tokenizer: Any, task: str) -> float:
    """The loss per answer token of the held-out rows, one row at a time by the formula."""
    dataset, form = {"alpaca": ("alpaca", "alpaca"), "gsm8k": ("gsm8k", "GSM8K"), "code": ("hf_codealpaca", "HF_CODE")}[
        task
    ]
    args = DataArguments(
        dataset, form, eval_dataset_size=8, max_eval_samples=500, source_max_len=160, target_max_len=32, few_shot=0
    )
    held = build_data(tokenizer, args, need_train=False).eval
    assert held is not None and len(held) == 8
    nll, tokens = 0.0, 0
    for item in (held[index] for index in range(len(held))):
        with torch.no_grad():
            log_p = model(item["input_ids"][None]).logits[0].double().log_softmax(-1)
        for place in range(1, len(item["labels"])):
            if item["labels"][place] != -100:
                nll -= float(log_p[place - 1, item["labels"][place]])
                tokens += 1
    return nll / tokens


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_the_scores_are_the_losses_of_the_stages_adapter(finished: Path, model: Path, stage: int) -> None:
    loaded: Any = load_base(str(model), bits=32)
    if stage:
        loaded = load_adapter(loaded, finished / "a" / f"{stage}_{TASKS[stage - 1]}")
    expected = [loss_row_by_row(loaded.eval(), load_tokenizer(str(model)), task) for task in TASKS]
    assert read(finished / "a" / "result.json")["metrics"]["matrix"][stage] == pytest.approx(expected, rel=1e-5)


def test_a_result_says_what_the_matrix_comes_to(finished: Path) -> None:
    for share in ("none", "a"):
        result = read(finished / share / "result.json")
        found = result["metrics"]
        summary = summarise(found["matrix"], lower_is_better=True)
        assert result["kind"] == "continual" and found["tasks"] == list(TASKS)
        assert found["average_answer_loss"] == summary.average == pytest.approx(sum(found["matrix"][-1]) / 3)
        assert [found["forgetting"], found["backward_transfer"], found["forward_transfer"]] == [
            summary.forgetting,
            summary.backward,
            summary.forward,
        ]
        assert found["code_answer_loss"] == found["matrix"][3][2] < found["matrix"][0][2], "it was learnt"
        assert result["plan"]["share"] == share and result["seconds"] > 0
    first, second = (read(finished / share / "result.json")["metrics"]["matrix"] for share in ("none", "a"))
    assert first[0] == second[0] and first[1:] != second[1:]


def test_every_stage_goes_on_from_the_adapter_of_the_one_before(finished: Path, model: Path) -> None:
    settings = [read(finished / "a" / f"{n}_{task}" / "settings.json") for n, task in enumerate(TASKS, 1)]
    assert settings[0]["adapter"] is None
    assert [Path(one["adapter"]).parent.name for one in settings[1:]] == ["1_alpaca", "2_gsm8k"]
    losses = read(finished / "a" / "result.json")["metrics"]["matrix"]
    # Training begins where the stage before ended, with an optimizer that knows nothing.
    assert all(read(finished / "a" / f"{n}_{task}" / "completed")["steps"] == 2 for n, task in enumerate(TASKS, 1))
    assert losses[1] != losses[2] != losses[3]


def test_the_results_stand_side_by_side(finished: Path) -> None:
    table = compare(sorted(finished.glob("*/result.json")))
    assert "forward_transfer" in table and "average_answer_loss" in table
    assert [line.split()[0] for line in table.splitlines()[1:]] == ["a", "base", "none"]


# What is left


def test_the_document_has_all_numbers_and_a_heat_map(finished: Path) -> None:
    text = (finished / "continual.md").read_text()
    for share in ("none", "a"):
        matrix = read(finished / share / "result.json")["metrics"]["matrix"]
        assert f"## share {share}" in text and all(f"{score:.4f}" in text for row in matrix for score in row)
    assert "One adapter learns alpaca, then gsm8k, then code" in text and "](continual.svg)" in text
    assert (finished / "continual.png").read_bytes().startswith(b"\x89PNG")
    assert "after gsm8k" in (finished / "continual.svg").read_text()


def test_without_matplotlib_it_is_said(
    finished: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "matplotlib" else there(name))
    tune(model, finished, "--share", "a", "--report", str(tmp_path))
    assert "no heat map: matplotlib is not installed" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["continual.md"]
    assert "No heat map: matplotlib was not installed" in (tmp_path / "continual.md").read_text()


# What is gone on from


@pytest.mark.slow
def test_a_run_killed_twice_goes_on_and_comes_to_the_same(
    finished: Path, model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, run, steps, runs = ShareTrainer.training_step, stages.run, [], []

    def training_step(trainer: Any, *more: Any) -> Any:
        steps.append(trainer.args.output_dir)
        if len(steps) == 4:
            raise KeyboardInterrupt  # in the second update of the second stage
        return step(trainer, *more)

    def counted(args: Any) -> Any:
        runs.append(args.output_dir.name)
        session = run(args)
        if runs[-2:] == ["2_gsm8k", "2_gsm8k"]:
            raise KeyboardInterrupt  # tuned, not scored
        return session

    monkeypatch.setattr(ShareTrainer, "training_step", training_step)
    monkeypatch.setattr(stages, "run", counted)
    second = out / "a" / "2_gsm8k"
    with pytest.raises(KeyboardInterrupt):
        tune(model, out, "--share", "a")
    assert (second / "checkpoint-1").is_dir() and not (second / "completed").exists()
    with pytest.raises(KeyboardInterrupt):
        tune(model, out, "--share", "a")
    assert (second / "completed").is_file() and not (second / "scores.json").exists()
    runs.append("between")
    tune(model, out, "--share", "a")
    assert runs == ["base", "1_alpaca", "2_gsm8k", "2_gsm8k", "between", "2_gsm8k", "3_code"]
    # Two updates of each stage, and the one that was cut off.
    assert len(steps) == 7
    matrices = [read(folder / "a" / "result.json")["metrics"]["matrix"] for folder in (out, finished)]
    assert matrices[0] == [pytest.approx(row, rel=1e-6) for row in matrices[1]]


def test_what_is_done_is_not_done_again_and_ways_of_sharing_can_be_added(
    go: Tune, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, runs = stages.run, []

    def counted(args: Any) -> Any:
        runs.append(f"{args.output_dir.parent.name}/{args.output_dir.name}")
        return real(args)

    monkeypatch.setattr(stages, "run", counted)
    for shares in (("ab",), ("ab",), ("ab", "b")):
        go("--share", *shares)
    assert runs == ["out/base", "ab/1_gsm8k", "ab/2_code", "b/1_gsm8k", "b/2_code"]
    assert (out / "b" / "result.json").is_file()


# What it refuses


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--learning_rate", "1e-3"), r"holds stages with learning_rate of alpaca 0.05, these have 0.001; .*--output"),
        (("--tasks", "gsm8k", "alpaca", "code"), "holds stages with tasks alpaca,gsm8k,code, these have gsm8k,alpaca"),
        (("--max_eval_samples", "4"), "max_eval_samples of alpaca 500, these have 4"),
        (("--max_new_tokens", "5"), "max_new_tokens of alpaca 4, these have 5"),
    ],
)
def test_stages_of_another_sequence_are_refused(
    finished: Path, model: Path, flags: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tune(model, finished, "--share", "a", *flags)


def test_a_stage_folder_of_other_settings_is_refused(finished: Path, model: Path, out: Path) -> None:
    shutil.copytree(finished / "a" / "1_alpaca", out / "a" / "1_alpaca")
    (out / "a" / "1_alpaca" / "scores.json").unlink()
    with pytest.raises(UserError, match=r"1_alpaca holds a run with learning_rate 0.05, this one has 0.01"):
        tune(model, out, "--share", "a", "--learning_rate", "0.01")


@pytest.mark.parametrize("content", ["{}", '{"scores": {"gsm8k": 1.0}, "seconds": 1}', '{"scores": 3, "seconds": 1}'])
def test_damaged_scores_are_named(go: Tune, out: Path, content: str) -> None:
    (out / "base").mkdir(parents=True)
    (out / "base" / "scores.json").write_text(content)
    with pytest.raises(UserError, match=r"base/scores\.json is damaged .*remove it"):
        go()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--tasks", "alpaca"), "found one task, alpaca; need two"),
        (("--tasks", "alpaca", "gsm8"), "found task 'gsm8'; need some of alpaca, gsm8k, code; did you mean gsm8k"),
        (("--tasks", "alpaca,code,alpaca"), "found task alpaca twice"),
        (("--share", "c"), "found --share c; need some of none, a, b, ab"),
        (("--share", "a", "a"), "each once"),
        (("--score", "guess"), "--score"),
        (("--target_max_len", "2"), r"found no answer of gsm8k within 2 tokens, the longest of 8 has \d+; .*raise"),
        (("--eval_dataset_size", "0"), "need rows for eval"),
        (("--dataset", "alpaca"), "found --dataset, which this command sets itself; use --tasks"),
        (("--output-dir=x",), "found --output_dir, .*use --output"),
        (("--do_train", "false"), "found --do_train false"),
        (("--taks", "alpaca"), "did you mean --tasks"),
        (("--lora_rr", "4"), "did you mean --lora_r"),
        (("--model", "nowhere/at/all/"), "nowhere/at/all"),
        (("--lora_r", "0"), "--lora_r"),
    ],
)
def test_bad_input_is_found_before_a_model_is_loaded(
    go: Tune, out: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(stages, "run", lambda args: pytest.fail("the job was started"))
    with pytest.raises(UserError, match=message):
        go(*flags)
    assert not out.exists()


def test_a_value_without_a_flag_and_a_missing_model(model: Path, out: Path) -> None:
    with pytest.raises(UserError, match="found the value 'here' without a flag"):
        command.read(["here"])
    with pytest.raises(UserError, match="found neither --model nor --tiny"):
        command.run(*command.read(["--output", str(out)]), 0.0)


def test_several_processes_are_refused(go: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="found 2 processes; need one"):
        go()


def test_a_dry_run_checks_every_way_of_sharing_and_writes_no_file(go: Tune, out: Path) -> None:
    go("--dry_run", "--share", "none", "b")
    assert not [path for path in out.rglob("*") if path.is_file()]
    with pytest.raises(UserError, match="w_proj"):
        go("--dry_run", "--lora_modules", "q_proj,w_proj")


# Tasks' own accuracy


@pytest.mark.slow
def test_accuracy_is_that_of_the_texts(go: Tune, out: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without_bubblewrap()
    written = {"gsm8k": [" It is 0", " 7 or 1", " none", " 3", " 4"], "code": ["    return x + 2\n", "    return x\n"]}
    asked = []

    def says(model: Any, tokenizer: Any, prompts: Any, *more: Any, **named: Any) -> list[Generated]:
        asked.append([prompt.prefix + prompt.text for prompt in prompts])
        texts = written["gsm8k" if "Question" in prompts[0].text else "code"]
        return [Generated(text, 3, "eos") for text in texts[: len(prompts)]]

    check = "def check(candidate):\n    assert candidate(7) == 9\n"
    names = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
    tasks = [dict(zip(names, (f"T/{n}", "def f(x):\n", "f", "    return x + 2\n", check), strict=True)) for n in (0, 1)]
    folder = out.parent / "data"
    shutil.copytree(data, folder)
    (folder / "humaneval").mkdir()
    (folder / "humaneval" / "HumanEval.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    monkeypatch.setenv("SHARELORA_DATA", str(folder))
    monkeypatch.setattr(scores, "generate", says)
    go("--score", "accuracy")
    result = read(out / "ab" / "result.json")["metrics"]
    assert result["matrix"] == [[0.8, 0.5]] * 3 and result["average_accuracy"] == pytest.approx(0.65)
    assert len(asked) == 6 and asked[0][0] == "Question: How many red at 0?\n\nAnswer:"


@pytest.mark.slow
def test_texts_are_written_by_the_stages_model(go: Tune, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scores.SCORES["accuracy"].tasks, "code", scores.answer_loss)  # type: ignore[index]
    go("--score", "accuracy", "--limit", "3")
    texts = [(out / folder / "texts_gsm8k" / "generations.jsonl").read_text() for folder in ("base", "ab/2_code")]
    assert all(len(text.splitlines()) == 4 for text in texts) and texts[0] != texts[1]
    assert all(0 <= row[0] <= 1 for row in read(out / "ab" / "result.json")["metrics"]["matrix"])


def test_a_score_that_a_task_has_not_is_refused(go: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(scores.SCORES["accuracy"].tasks, "code")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="found task code without the score accuracy"):
        go("--score", "accuracy")


def test_words_are_divided_between_the_command_and_the_tuning(model: Path, out: Path) -> None:
    args, rest = command.read(words(model, out, "--tasks", "code", "alpaca", "--no-bf16", "--warmup-ratio=0.1"))
    assert args.tasks == ["code", "alpaca"] and args.share == ["none", "a", "b", "ab"]
    assert rest[-2:] == ["--no-bf16", "--warmup-ratio=0.1"] and "--lora_r" in rest and "--tasks" not in rest
