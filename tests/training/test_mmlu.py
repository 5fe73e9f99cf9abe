"""MMLU during training."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from small_llama import Job

from sharelora.support.errors import UserError
from sharelora.training.instructions.job import InstructionArguments

SUBJECTS = ("colours", "numbers")


@pytest.fixture
def questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five solved and four open questions in each of two subjects."""
    folder = tmp_path / "data" / "mmlu"
    folder.mkdir(parents=True)
    for split, count in (("dev", 5), ("val", 4), ("test", 4)):
        rows = [
            {"subject": name, "question": f"{split} {i}", "choices": ["red", "one", "cat", "dog"], "answer": i % 4}
            for name in SUBJECTS
            for i in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("SHARELORA_DATA", str(tmp_path / "data"))
    return folder


def metrics(args: InstructionArguments) -> dict[str, Any]:
    return json.loads((args.output_dir / "result.json").read_text())["metrics"]


@pytest.mark.parametrize("name", ["mmlu-fs", "mmlu-zs", "mmlu"])
def test_few_and_zero_shot_accuracies_have_qloras_names(job: Job, questions: Path, name: str) -> None:
    """Zero-shot never works in QLoRA (KeyError: subject); and there its evaluation crashes with generation."""
    args = job("--do_mmlu_eval", "--mmlu_dataset", name, "--do_eval", "--do_predict")
    found = metrics(args)
    assert {f"mmlu_eval_accuracy_{subject}" for subject in SUBJECTS} <= set(found)
    assert 0 <= found["mmlu_eval_accuracy"] <= 1 and found["mmlu_loss"] > 0
    mean = sum(found[f"mmlu_eval_accuracy_{subject}"] for subject in SUBJECTS) / 2
    assert found["mmlu_eval_accuracy"] == pytest.approx(mean)
    assert "mmlu_eval_accuracy_before" in found


def test_asking_for_mmlu_alone_evaluates(job: Job, questions: Path) -> None:
    """In the authors' script the default split evaluates nothing."""
    assert "mmlu_eval_accuracy" in metrics(job("--do_mmlu_eval"))


def test_it_is_logged_at_every_evaluation(job: Job, questions: Path) -> None:
    args = job("--do_mmlu_eval", "--max_mmlu_samples", "3", "--eval_strategy", "steps", "--eval_steps", "2")
    header, *rows = (args.output_dir / "loss.csv").read_text().splitlines()
    column = header.split(",").index("mmlu_eval_accuracy")
    assert [row.split(",")[0] for row in rows if row.split(",")[column]] == ["0", "2", "4"]


def test_it_can_choose_the_best_checkpoint(job: Job, questions: Path) -> None:
    more = "--do_mmlu_eval --eval_strategy steps --eval_steps 2 --load_best_model_at_end --learning_rate 0.1"
    args = job(*more.split(), "--metric_for_best_model", "mmlu_accuracy")
    state = json.loads((args.output_dir / "checkpoint-4" / "trainer_state.json").read_text())
    seen = [
        line["mmlu_eval_accuracy"] for line in state["log_history"] if line["step"] in (2, 4) and "mmlu_loss" in line
    ]
    assert state["best_metric"] == max(seen) == metrics(args)["mmlu_eval_accuracy"]


def test_questions_that_do_not_fit_are_refused(job: Job, questions: Path) -> None:
    with pytest.raises(UserError):
        job("--do_mmlu_eval", "--mmlu_source_max_len", "10")


def test_missing_questions_are_found_before_anything_is_loaded(
    job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SHARELORA_DATA", str(tmp_path))
    monkeypatch.setattr("sharelora.training.job.load_model", lambda *_, **__: pytest.fail("weights were loaded"))
    with pytest.raises(UserError, match="MMLU"):
        job("--do_mmlu_eval")


def test_training_does_not_notice(job: Job, questions: Path, tmp_path: Path) -> None:
    """The same draws of dropout and the same order of rows follow."""
    outs = [tmp_path / name for name in ("with", "without")]
    common = ("--lora_dropout", "0.1", "--eval_strategy", "steps", "--eval_steps", "1")
    job("--output_dir", str(outs[0]), "--do_mmlu_eval", "--mmlu_dataset", "mmlu-zs", *common)
    job("--output_dir", str(outs[1]), *common)
    one, other = (load_file(out / "adapter_model" / "adapter_model.safetensors") for out in outs)
    assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def test_examples_are_left_out_of_long_prompts_aloud(
    job: Job, questions: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="sharelora"):
        job("--do_mmlu_eval", "--mmlu_source_max_len", "250", "--max_mmlu_samples", "5")
    assert "5 of 5 prompts with 5 examples are longer than 250 tokens" in caplog.text


def test_no_questions_are_refused(job: Job, questions: Path) -> None:
    with pytest.raises(UserError, match="--max_mmlu_samples: found '0'; need a whole number of at least 1"):
        job("--do_mmlu_eval", "--max_mmlu_samples", "0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ([], "as rows do when this project tunes such an adapter"),
        (["--bos", "never"], "--bos never"),
        (["--do_train", "false", "--adapter", "none"], "as the tokenizer writes texts"),
    ],
    ids=str,
)
def test_the_result_says_what_prompts_begin_with(job: Job, questions: Path, flags: list[str], reason: str) -> None:
    said = metrics(job("--do_mmlu_eval", "--max_mmlu_samples", "2", "--do_eval", *flags))["prompts_begin"]
    assert said["reason"] in (reason, "the tokenizer has no begin token")
    assert (said["ids"] == []) is (flags == ["--bos", "never"] or said["token"] is None)
