"""Scripts run from any folder, through links, below names with spaces, and with a ~ that no shell has expanded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from script_commands import environment, resolve

TUNE = "share/finetune_alpaca_llama3_8b_full.sh"
EXAM = "lora/eval/MMLU_evaluate_llama3_8b_full.sh"


def run(script: Path, *arguments: str, cwd: Path, **settings: str) -> list[str]:
    """The words that a script prints, called by a path relative to a folder."""
    done = subprocess.run(
        ["bash", os.path.relpath(script, cwd), *arguments],
        env=environment(PRINT_COMMAND="1", **settings),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("script", [TUNE, EXAM])
def test_a_script_is_found_through_links(scripts: Path, tmp_path: Path, script: str) -> None:
    elsewhere = tmp_path / "a folder"
    elsewhere.mkdir()
    wanted = resolve(script)
    (elsewhere / "tune.sh").symlink_to(scripts / script)
    (elsewhere / "again.sh").symlink_to("tune.sh")
    (elsewhere / "variant").symlink_to((scripts / script).parent)
    (elsewhere / "project").symlink_to(scripts.parent)
    links = ("tune.sh", "again.sh", f"variant/{Path(script).name}", f"project/scripts/{script}")
    for link in links:
        assert run(elsewhere / link, cwd=tmp_path) == wanted
    # With CDPATH, cd goes elsewhere and says so.
    assert run(elsewhere / "tune.sh", cwd=elsewhere, CDPATH=str(tmp_path)) == wanted
    assert run(scripts / script, cwd=scripts, CDPATH=str(tmp_path)) == wanted


def test_help_is_found_through_a_link(scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "tune.sh").symlink_to(scripts / TUNE)
    assert run(tmp_path / "tune.sh", "--help", cwd=tmp_path)[0].startswith("Tune LLaMA-3-8B on Alpaca")


def test_every_script_finds_its_folder_through_links(scripts: Path) -> None:
    files = [*scripts.rglob("*.sh"), scripts.parent / "benchmarks" / "gpu.sh", scripts.parent / ".ci" / "run"]
    texts = {file: file.read_text() for file in files}
    for file, text in texts.items():
        assert text.count("BASH_SOURCE") == text.count('readlink -f "${BASH_SOURCE[0]}"'), file
    assert sum("BASH_SOURCE" in text for text in texts.values()) > 150


def test_a_project_below_a_name_with_spaces(scripts: Path, tmp_path: Path) -> None:
    project = tmp_path / "my project (2)"
    for folder in ("common", "recipes", "share"):
        shutil.copytree(scripts / folder, project / "scripts" / folder)
    words = run(project / "scripts" / TUNE, cwd=tmp_path)
    assert words[1] == str(project / "qlora_share" / "qlora_share.py")
    assert str(project / "runs/share/alpaca_llama3_8b_full") in words


def test_a_home_in_quotes_is_the_home(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    words = resolve(TUNE, MODEL="~/llama", OUTPUT_DIR="~/my runs/1", **home)
    assert f"{tmp_path}/llama" in words and f"{tmp_path}/my runs/1" in words
    words = resolve(EXAM, ADAPTER="~/adapter", MODEL="org/~name", OUTPUT_DIR="~", **home)
    assert words[words.index("--adapter") + 1] == f"{tmp_path}/adapter"
    assert words[words.index("--model") + 1] == "org/~name" and words[words.index("--output") + 1] == str(tmp_path)
    (tmp_path / "python").symlink_to(sys.executable)
    assert resolve(TUNE, PYTHON="~/python", **home)[0] == f"{tmp_path}/python"


def test_a_comparison_goes_into_a_folder_with_spaces(scripts: Path, tmp_path: Path) -> None:
    out = tmp_path / "real 'input' runs"
    settings = {"PRINT_COMMAND": "1", "SEEDS": "0", "OUTPUT_DIR": str(out), "MODEL": str(tmp_path / "a model")}
    subprocess.run(["bash", str(scripts / "real_input.sh")], env=environment(**settings), cwd=tmp_path, timeout=60)
    logs = {file.name: file.read_text().splitlines() for file in out.glob("*.log")}
    assert len(logs) == 7
    assert str(out / "ab_seed0") in logs["ab_seed0.log"] and str(tmp_path / "a model") in logs["ab_seed0.log"]
