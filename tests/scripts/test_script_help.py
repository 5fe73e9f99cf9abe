"""What a script's --help says: in one screen, at once, and without anything installed."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from script_commands import SCRIPTS, environment

NAMES = sorted(str(file.relative_to(SCRIPTS)) for file in SCRIPTS.glob("share/**/*.sh"))
TRAIN = "lora/finetune_alpaca_llama3_8b_4bit.sh"


def help_of(script: str, *arguments: str, **settings: str) -> list[str]:
    """The lines of a script's help, from another folder and with a Python that is not there."""
    done = subprocess.run(
        ["bash", str(SCRIPTS / script), *arguments],
        env=environment(**{"PYTHON": "/nowhere/python", **settings}),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def rows_of(lines: list[str]) -> dict[str, str]:
    """What each row of a help says, by its name."""
    return {line[2:25].strip(): line[25:] for line in lines[2:]}


@pytest.mark.parametrize("name", NAMES)
def test_one_screen_says_what_is_run_and_what_can_be_set(name: str) -> None:
    lines = help_of(name, "--help")
    assert len(lines) <= 24 and max(map(len, lines)) < 160
    code = (SCRIPTS / name).read_text().splitlines()
    assert f"# {lines[0]}" == code[1]
    rows = rows_of(lines)
    entry = code[-1].split()[1]
    assert rows["command"].startswith(entry) and (SCRIPTS.parent / entry).is_file()
    assert rows["any flag"].endswith(f"/nowhere/python {entry} --help")
    for file in rows["numbers, sources"].split(", "):
        assert (SCRIPTS.parent / file).is_file()
    assert rows["results"].startswith(str(SCRIPTS.parent / "runs/share"))
    variables = {row.partition("=")[0] for row in rows if "=" in row}
    assert {"MODEL", "OUTPUT_DIR", "PYTHON", "PRINT_COMMAND"} <= variables and {"--tiny", "--dry_run"} <= set(rows)
    if name.startswith("share/eval/"):
        assert "ADAPTER" in variables and rows["adapter"].startswith(str(SCRIPTS.parent / "runs/share"))
    else:
        assert rows["adapter"].startswith("--share ") and all(rows[row] for row in ("base model", "training"))
        assert {"NPROC", "ACCELERATE"} <= variables or "continual" in name
    assert ("INIT" in variables) is (Path(name).stem.endswith(("mrpc", "rte", "stsb")))
    assert ("SHARELORA_DATA" in variables) is ("llava" not in name)


def test_it_says_the_numbers_that_the_run_would_have() -> None:
    rows = rows_of(help_of(TRAIN, "-h"))
    assert rows["base model"] == "meta-llama/Meta-Llama-3-8B, bits 4, bf16 true"
    assert rows["adapter"] == "--share none, rank 64, alpha 16, on q_proj,v_proj"
    assert rows["training"] == "updates: 3000, examples per update: 16, processes: 1, learning rate: 1e-4"
    settings = {"MODEL": "mine", "OUTPUT_DIR": "there", "NPROC": "4"}
    rows = rows_of(help_of(TRAIN, "--learning_rate", "1e-3", "--help", **settings))
    assert rows["base model"].startswith("mine, ") and rows["results"] == "there"
    assert rows["training"] == "updates: 3000, examples per update: 16, processes: 4, learning rate: 1e-3"
    rows = rows_of(help_of("share/roberta_base_rte.sh", "--help", "--tiny"))
    assert "epochs: 3" in rows["training"] and rows["results"].endswith("_tiny") and "small" in rows["base model"]


def test_it_is_there_within_a_second() -> None:
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        help_of("share/gpt2_medium_e2e.sh", "--help")
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 1
