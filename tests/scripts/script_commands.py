"""What command line a shell script resolves to, without running it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
FROM_OUTSIDE = (
    *(
        "MODEL",
        "ADAPTER",
        "INIT",
        "OUTPUT_DIR",
        "NPROC",
        "SHARELORA_TINY",
        "SHARELORA_DATA",
        "LAUNCH_FLAGS",
        "ACCELERATE",
    ),
    *("STAGES", "DECODE_FLAGS", "SCORE_FLAGS", "DATA_PATH", "IMAGE_FOLDER"),
)

Command = Callable[..., list[str]]


def environment(**settings: str) -> dict[str, str]:
    """The environment of this process without what steers the scripts, and with `settings`."""
    kept = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE}
    return {**kept, "PYTHON": sys.executable, **settings}


def resolve(script: str, *arguments: str, **settings: str) -> list[str]:
    """The words of the command that a script would run.

    Args:
        script: its path below scripts/.
        arguments: the script's own arguments.
        settings: environment variables.
    """
    done = subprocess.run(
        ["bash", str(SCRIPTS / script), *arguments],
        env=environment(PRINT_COMMAND="1", **settings),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def value(words: list[str], flag: str) -> str:
    """The value that a flag has in the end: that of its last occurrence, or what the configuration file says."""
    if flag not in words and "--config" in words:
        config = yaml.load(Path(value(words, "--config")).read_text(), Loader=yaml.BaseLoader)
        return str(config[flag.removeprefix("--")])
    return words[len(words) - 1 - words[::-1].index(flag) + 1]
