"""The scripts for GLUE with --tiny for real: the preflight of each, and MNLI followed by a task that starts from it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from script_commands import SCRIPTS, Command, flags_of

from sharelora.training.glue.job import parse, run

pytestmark = pytest.mark.usefixtures("hardly_trained")
SHARED = sorted(f"share/{file.name}" for file in (SCRIPTS / "share").glob("*berta_*.sh"))
# The other twins differ in the sharing alone, as test_script_twins.py shows.
TRAINING = [*SHARED, "lora/roberta_base_stsb.sh", "lora/deberta_v2_xxlarge_mnli_cutoff.sh"]
SHORT = ("--max_steps", "2", "--max_train_samples", "64", "--max_eval_samples", "16")


def words_of(command: Command, script: str, *arguments: str, **settings: str) -> list[str]:
    """The command line of the job that a script would start with --tiny."""
    return flags_of(command(script, "--tiny", *arguments, **settings), "NLU/run_glue_share.py")


@pytest.mark.parametrize("script", TRAINING)
def test_a_dry_run_checks_everything_and_writes_nothing(
    command: Command, script: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "out"
    with caplog.at_level(logging.INFO, "sharelora"):
        run(parse(words_of(command, script, "--dry_run", OUTPUT_DIR=str(folder), INIT="none")))
    assert "dry run: no weights were loaded" in caplog.text
    assert not folder.exists() or not any(folder.iterdir())
    assert len(SHARED) == 26


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("variant", ["share", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_task_goes_on_from_the_adapter_that_the_mnli_script_left(
    command: Command, variant: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mnli, mrpc = tmp_path / "mnli", tmp_path / "mrpc"
    run(parse(words_of(command, f"{variant}/roberta_base_mnli.sh", *SHORT, OUTPUT_DIR=str(mnli))))
    with caplog.at_level(logging.INFO, "sharelora"):
        run(parse(words_of(command, f"{variant}/roberta_base_mrpc.sh", *SHORT, OUTPUT_DIR=str(mrpc), INIT=str(mnli))))
    assert "head" in caplog.text
    assert result(mnli)["plan"]["hash"] == result(mrpc)["plan"]["hash"]
    assert result(mnli)["plan"]["share"] == ("a" if variant == "share" else "none")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rdrop", "cutoff"])
def test_a_regularizer_trains(command: Command, name: str, tmp_path: Path) -> None:
    run(parse(words_of(command, f"share/deberta_v2_xxlarge_mnli_{name}.sh", *SHORT, OUTPUT_DIR=str(tmp_path / "out"))))
    assert result(tmp_path / "out")["config"]["reg_loss_wgt"] == 1
