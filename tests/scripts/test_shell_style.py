"""Every shell file is sound by the rules of shellcheck, where that is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def shell_files(scripts: Path) -> list[str]:
    """Every file that bash reads."""
    return [str(scripts.parent / ".ci" / "run"), *map(str, sorted(scripts.rglob("*.sh")))]


def test_bash_can_parse_every_file(scripts: Path) -> None:
    files = shell_files(scripts)
    assert len(files) > 70
    for file in files:
        done = subprocess.run(["bash", "-n", file], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_shellcheck_finds_nothing(scripts: Path) -> None:
    beside = Path(sys.executable).parent / "shellcheck"
    checker = str(beside) if beside.exists() else shutil.which("shellcheck")
    if checker is None:
        pytest.skip("shellcheck is not installed; requirements-dev.txt has it")
    # The LoRA twins are the same but for the sharing: test_script_twins.py.
    files = [file for file in shell_files(scripts) if Path(file).parent.parts[-2:].count("lora") == 0]
    assert len(files) > 100
    written = [file for file in files if Path(file).is_relative_to(scripts / "share")]
    # One script for each function that they call is checked with what it sources; one generator writes them all.
    followed = {Path(file).read_text().splitlines()[-1].split()[0]: file for file in written}
    assert set(followed) == {"tune", "tune_in_turn", "tune_decode_score", "examine"}
    others = sorted({*files} - {*written} | {*followed.values()})
    # Most names are set in one file and read in another.
    flags = ["-s", "bash", "-P", "SCRIPTDIR", "-e", "SC1091,SC2034,SC2154"]
    for some in ([*flags, *written], [*flags, "-x", *others]):
        done = subprocess.run([checker, *some], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
