"""What command line a shell script resolves to, without running it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import yaml

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
# What steers the scripts from outside.
FROM_OUTSIDE = (
    *("MODEL", "ADAPTER", "INIT", "OUTPUT_DIR", "SHARELORA_TINY", "SHARELORA_DATA", "DATA_PATH", "IMAGE_FOLDER"),
    *("NPROC", "ACCELERATE", "LAUNCH_FLAGS", "STAGES", "DECODE_FLAGS", "SCORE_FLAGS"),
)

Command = Callable[..., list[str]]


def environment(**settings: str) -> dict[str, str]:
    """The environment of this process without what steers the scripts, and with `settings`."""
    inherited = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE}
    return {**inherited, "PYTHON": sys.executable, **settings}


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


def flags_of(words: list[str], entry: str) -> list[str]:
    """What comes after an entry point on a command line, e.g. NLU/run_glue_share.py."""
    return words[words.index(str(SCRIPTS.parent / entry)) + 1 :]


def load(file: Path) -> ModuleType:
    """Import a file that is in no package."""
    spec = importlib.util.spec_from_file_location(f"loaded_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def value(words: list[str], flag: str) -> str:
    """The value that a flag has in the end: that of its last occurrence, or what the configuration file says."""
    if flag not in words and "--config" in words:
        config = yaml.load(Path(value(words, "--config")).read_text(), Loader=yaml.BaseLoader)
        return str(config[flag.removeprefix("--")])
    return words[len(words) - 1 - words[::-1].index(flag) + 1]
