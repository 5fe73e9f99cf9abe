"""Every training script with --tiny --dry_run, in this process: its command line goes through the whole preflight."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from script_commands import SCRIPTS, Command, flags_of

from sharelora.training.instructions.job import parse, run

pytestmark = pytest.mark.usefixtures("hardly_trained")
# LLaVA's is another job: test_vision_scripts.py.
TRAINING = sorted(str(file.relative_to(SCRIPTS)) for file in SCRIPTS.glob("*/finetune_*_llama*.sh"))


# The others differ in the size and the precision of a base that --tiny replaces.
SAMPLE = ("_7b_full", "_8b_full", "_groups_full", "_groups_auto_full")
SAMPLED = [
    script if script.removesuffix(".sh").endswith(SAMPLE) else pytest.param(script, marks=pytest.mark.slow)
    for script in TRAINING
]


@pytest.mark.parametrize("script", SAMPLED)
def test_a_dry_run_checks_everything_and_writes_nothing(
    command: Command, script: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "out"
    words = command(script, "--tiny", "--dry_run", OUTPUT_DIR=str(folder))
    with caplog.at_level(logging.INFO, "sharelora"):
        run(parse(flags_of(words, "qlora_share/qlora_share.py")))
    assert "dry run: no weights were loaded" in caplog.text
    # Groups that are still to be measured are no plan yet.
    shared = "own" if script.startswith("lora/") or "_auto_" in script else "groups" if "_groups_" in script else "all"
    assert f"self_attn.q_proj  {shared}" in caplog.text
    assert not folder.exists() or not any(folder.iterdir())
