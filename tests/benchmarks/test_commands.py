"""Every benchmark command prints its help at once: what is heavy is imported only after the flags were read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDERS = (".", "speed", "memory", "scores", "peft_suite")
# Its flags are the fields of a recipe for torch.
HEAVY = ("pretrain_gpt2.py",)
PROGRAM = """
import runpy, sys
file = sys.argv[1]
sys.argv = [file, "--help"]
try:
    runpy.run_path(file, run_name="__main__")
except SystemExit as end:
    assert not end.code
    sys.exit(f"{file} loads torch before it reads its flags" if "torch" in sys.modules else 0)
sys.exit(f"{file} does not end")
"""


def commands() -> list[Path]:
    root = Path(__file__).resolve().parents[2] / "benchmarks"
    files = [file for folder in FOLDERS for file in sorted((root / folder).glob("*.py"))]
    return [file for file in files if "run_main(main)" in file.read_text(encoding="utf-8")]


def test_all_commands_are_known() -> None:
    assert len(commands()) == 17


@pytest.mark.parametrize("file", commands(), ids=lambda file: file.stem)
def test_help_comes_before_heavy_imports(file: Path, tmp_path: Path) -> None:
    if file.name in HEAVY:
        pytest.skip("torch is needed for the flags")
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(file)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout and file.name not in done.stderr
