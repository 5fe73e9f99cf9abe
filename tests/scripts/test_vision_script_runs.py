"""The scripts of LLaVA with --tiny for real: what is tuned on made images, and what it answers then."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from script_commands import SCRIPTS, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def printed(words: list[str], folder: Path, **settings: str) -> str:
    """Run a command and return what it printed."""
    done = subprocess.run(
        words, env=environment(**settings), cwd=folder, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def answers(folder: Path, *which: str) -> list[str]:
    """Return what a model answers to the made bench."""
    bench = str(SCRIPTS.parent / "eval" / "llava_bench.py")
    printed([sys.executable, bench, "--tiny", *which, "--output", str(folder)], folder.parent)
    return [json.loads(line)["text"] for line in (folder / "answers.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("variant", ["share", "lora"])
def test_what_is_seen_is_learnt(variant: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = str(SCRIPTS / variant / "finetune_llava15_7b_full.sh")
    printed(["bash", script, "--tiny"], tmp_path, OUTPUT_DIR=str(out))
    result = json.loads((out / "result.json").read_text())
    assert result["metrics"]["eval_loss"] < 1.0
    assert (result["plan"]["trainable"] < result["plan"]["unshared"]) is (variant == "share")
    from sharelora.tiny import tiny_vision_data

    bench = tiny_vision_data() / "llava_bench"
    right = [json.loads(line)["text"] for line in (bench / "answers_gpt4.jsonl").read_text().splitlines()]
    before, after = (
        answers(tmp_path / "before", "--adapter", "none"),
        answers(tmp_path / "after", "--adapter", str(out)),
    )
    score = [sum(said == wanted for said, wanted in zip(answered, right, strict=True)) for answered in (before, after)]
    assert score[0] == 0 and score[1] > 0.5 * len(right), score
