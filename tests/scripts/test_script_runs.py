"""A sample of the scripts with --tiny for real: train, evaluate what was trained, put the runs side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from script_commands import SCRIPTS, environment

from sharelora.trainer.serialization import load_state

pytestmark = pytest.mark.usefixtures("hardly_trained")
SHORT = ("--max_steps", "4", "--eval_steps", "2", "--save_steps", "2", "--max_train_samples", "128")


def bash(script: str, *arguments: str, cwd: Path, **settings: str) -> str:
    """Run a script and return what it printed."""
    done = subprocess.run(
        ["bash", str(SCRIPTS / script), *arguments],
        env=environment(**settings),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def train_and_evaluate(variant: str, precision: str, folder: Path) -> dict[str, dict[str, object]]:
    """Run a training script and the evaluation of its adapter; return both results."""
    train, score = folder / variant, folder / f"{variant}_mmlu"
    bash(f"{variant}/finetune_alpaca_llama3_8b_{precision}.sh", "--tiny", *SHORT, cwd=folder, OUTPUT_DIR=str(train))
    bash(
        f"{variant}/eval/MMLU_evaluate_llama3_8b_{precision}.sh",
        "--limit",
        "8",
        cwd=folder,
        ADAPTER=str(train),
        OUTPUT_DIR=str(score),
        SHARELORA_TINY="1",
    )
    return {path.name: json.loads((path / "result.json").read_text()) for path in (train, score)}


@pytest.mark.slow
def test_share_trains_and_is_scored_by_the_scripts_alone(tmp_path: Path) -> None:
    results = train_and_evaluate("share", "full", tmp_path)
    plan = results["share"]["plan"]
    assert plan["share"] == "a" and plan["trainable"] < plan["unshared"]
    assert results["share"]["files"]["adapter"]["elements"] == plan["trainable"]
    assert results["share_mmlu"]["files"]["adapter"]["sha256"] == results["share"]["files"]["adapter"]["sha256"]
    assert results["share_mmlu"]["metrics"]["questions"] == 8


@pytest.mark.slow
def test_commonsense_and_mmlu_pro_run_by_the_scripts_alone(tmp_path: Path) -> None:
    train, scores = tmp_path / "train", {exam: tmp_path / exam for exam in ("Commonsense", "MMLU_PRO")}
    printed = bash("share/finetune_commonsense_llama_7b_full.sh", "--tiny", *SHORT, cwd=tmp_path, OUTPUT_DIR=str(train))
    assert "WITHOUT" not in printed
    for exam, folder in scores.items():
        script = f"share/eval/{exam}_evaluate_llama_7b_full.sh"
        flags = ("--tiny", "--limit", "16")
        bash(script, *flags, cwd=tmp_path, ADAPTER=str(train), OUTPUT_DIR=str(folder))
    trained, commonsense, pro = (
        json.loads((folder / "result.json").read_text()) for folder in (train, *scores.values())
    )
    assert trained["plan"]["share"] == "a" and trained["config"]["dataset"] == "commonsense"
    for evaluated in (commonsense, pro):
        assert evaluated["files"]["adapter"]["sha256"] == trained["files"]["adapter"]["sha256"]
    assert all(len(commonsense["metrics"][way]["tasks"]) == 8 for way in ("likelihood", "generated"))
    assert pro["metrics"]["questions"] == 16 and pro["metrics"]["wrong_answer_index"] == []


@pytest.mark.slow
def test_twins_train_on_a_4bit_base_and_are_compared(tmp_path: Path) -> None:
    for variant in ("share", "lora"):
        train_and_evaluate(variant, "4bit", tmp_path)
    table = subprocess.run(
        [sys.executable, "-m", "sharelora", "compare", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS.parent)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "share" in table and "lora" in table


@pytest.mark.slow
@pytest.mark.parametrize("data", ["code", "gsm8k"])
def test_the_other_data_sets_train_too(tmp_path: Path, data: str) -> None:
    printed = bash(
        f"share/finetune_{data}_llama3_70b_full.sh", "--tiny", *SHORT, cwd=tmp_path, OUTPUT_DIR=str(tmp_path / "out")
    )
    assert "step 4/4" in printed
    assert "lost" not in printed


@pytest.mark.distributed
@pytest.mark.parametrize("settings", [{"NPROC": "2"}, {"ACCELERATE": "ddp_cpu"}])
def test_two_processes_train_through_accelerate(tmp_path: Path, settings: dict[str, str]) -> None:
    out = tmp_path / "out"
    bash("share/finetune_alpaca_llama3_8b_full.sh", "--tiny", *SHORT, cwd=tmp_path, OUTPUT_DIR=str(out), **settings)
    assert json.loads((out / "result.json").read_text())["plan"]["share"] == "a"
    assert len(load_state(out / "checkpoint-4" / "training_state.safetensors")["processes"]) == 2


@pytest.mark.slow
def test_without_a_hub_the_real_command_ends_at_once_and_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(SCRIPTS / "share/finetune_alpaca_llama3_8b_full.sh")],
        env=environment(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path), OUTPUT_DIR=str(tmp_path / "out")),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "--tiny" in done.stderr and "MODEL=" in done.stderr
    assert not list((tmp_path / "out").glob("*"))
