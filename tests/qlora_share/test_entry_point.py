"""The script as a person starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_a_mistake_is_one_line_and_exit_code_2(root: Path) -> None:
    script = str(root / "qlora_share" / "qlora_share.py")
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script, "--lora_rr", "4"], capture_output=True, text=True, env=environment, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "error: found unknown flag --lora_rr; need a flag that this command has; did you mean --lora_r?\n"
    )
