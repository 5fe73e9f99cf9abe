"""The scripts that tune tasks one after the other: their flags, their twins, and a tiny run for real."""

from __future__ import annotations

import json
import logging
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from script_commands import SCRIPTS, Command, environment, load, value

from sharelora.continual.sequence import TaskSequence

NAME = "continual_llama3_8b.sh"


@pytest.fixture(scope="module")
def entry() -> ModuleType:
    """The command that the scripts start."""
    return load(SCRIPTS.parent / "eval" / "continual.py")


@pytest.mark.parametrize("tiny", [[], ["--tiny"]], ids=["real", "tiny"])
@pytest.mark.parametrize("variant", ["share", "lora"])
def test_the_command_and_the_tuning_take_every_flag(
    command: Command, entry: ModuleType, variant: str, tiny: list[str]
) -> None:
    words = command(f"{variant}/{NAME}", *tiny)
    assert words[1] == str(SCRIPTS.parent / "eval" / "continual.py")
    args, rest = entry.read(words[2:])
    assert args.tiny is bool(tiny) and args.tasks == ["alpaca", "gsm8k", "code"] and args.score == "answer_loss"
    assert args.share == (["none"] if variant == "lora" else ["none", "a", "b", "ab"])
    sequence: TaskSequence = entry.sequence_of(args, rest)
    stage = sequence.stage(args.share[-1], 2)
    assert stage.notices == () and stage.run.tiny is bool(tiny) and stage.model.bits == (32 if tiny else 16)
    assert stage.train["max_steps"] == (40 if tiny else 3000) and not stage.train["load_best_model_at_end"]
    assert stage.train["per_device_train_batch_size"] * stage.train["gradient_accumulation_steps"] == 16
    assert stage.data.max_eval_samples == (64 if tiny else 500) and stage.train["eval_strategy"] == "no"


def test_the_lengths_are_those_of_the_scripts_for_each_task_alone(command: Command, entry: ModuleType) -> None:
    sequence: TaskSequence = entry.sequence_of(*entry.read(command(f"share/{NAME}")[2:]))
    for number, task in enumerate(sequence.tasks, 1):
        alone, stage = command(f"share/finetune_{task}_llama3_8b_full.sh"), sequence.stage("a", number)
        lengths = [int(value(alone, flag)) for flag in ("--source_max_len", "--target_max_len")]
        assert [stage.data.source_max_len, stage.data.target_max_len] == lengths
        assert stage.data.dataset == value(alone, "--dataset")
        for flag in ("learning_rate", "max_steps", "seed"):
            assert stage.train[flag] == float(value(alone, f"--{flag}"))


@pytest.mark.parametrize("tiny", [[], ["--tiny"]], ids=["real", "tiny"])
def test_the_twin_differs_in_the_sharing_and_the_folder_alone(command: Command, tiny: list[str]) -> None:
    share, lora = command(f"share/{NAME}", *tiny), command(f"lora/{NAME}", *tiny)
    differing = [pair for pair in zip(share, lora, strict=True) if pair[0] != pair[1]]
    assert len(differing) == 2 and differing[1] == ("none,a,b,ab", "none")
    assert differing[0][0].replace("runs/share/", "runs/lora/") == differing[0][1]


@pytest.mark.usefixtures("hardly_trained")
def test_a_dry_run_checks_everything_and_writes_no_file(
    command: Command, entry: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "out"
    words = command(f"share/{NAME}", "--tiny", "--dry_run", OUTPUT_DIR=str(folder))
    with caplog.at_level(logging.INFO, "sharelora"):
        args, rest = entry.read(words[2:])
        entry.run(args, rest, 0.0)
    assert "3 stages for each of 4 ways of sharing" in caplog.text
    assert not [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.usefixtures("hardly_trained")
def test_a_tiny_run_leaves_a_matrix_for_every_way_of_sharing(tmp_path: Path) -> None:
    short = ("--max_steps", "2", "--max_eval_samples", "8", "--max_train_samples", "64", "--share", "none", "ab")
    done = subprocess.run(
        ["bash", str(SCRIPTS / "share" / NAME), "--tiny", *short, "--tasks", "gsm8k", "code"],
        env=environment(OUTPUT_DIR=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for share in ("none", "ab"):
        result = json.loads((tmp_path / share / "result.json").read_text())
        assert result["plan"]["share"] == share and len(result["metrics"]["matrix"]) == 3
    assert (tmp_path / "continual.md").is_file() and (tmp_path / "continual.svg").is_file()
