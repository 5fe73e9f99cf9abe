"""The script as a user runs it: exit codes and what it says."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from sharelora.support.errors import run_main

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpt2_share_ft_entry", ROOT / "NLG" / "gpt2_share_ft.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(script: ModuleType, words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sharelora.reporting.history._plot", lambda rows: b"no plot in this test")
    monkeypatch.setattr(sys, "argv", ["gpt2_share_ft.py", *words])
    with pytest.raises(SystemExit) as ended:
        run_main(script.main)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_run_ends_well(script: ModuleType, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(script, words, monkeypatch) == 0
    assert json.loads((tmp_path / "out" / "result.json").read_text())["metrics"]["eval_perplexity"] > 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--train_data nowhere.txt", "error: nowhere.txt not found; need a file of rows there"),
        ("--lora_r 0", "error: argument --lora_r: found '0'; need a whole number of at least 1"),
        ("--init_checkpoint nowhere/at/all", "error: model nowhere/at/all not found: no such folder"),
        (
            "--train_batch_size 0",
            "error: argument --per_device_train_batch_size/--train_batch_size: found '0'; need a whole number",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    script: ModuleType, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    more: str, said: str,
) -> None:  # fmt: skip
    assert run(script, [*words, *more.split()], monkeypatch) == 2
    message = capsys.readouterr().err
    assert message.startswith(said) and message.count("\n") == 1
