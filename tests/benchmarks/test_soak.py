"""The long run: what is seen of it, what counts as growth, and going on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.harness import report
from benchmarks.memory import soak
from benchmarks.memory.soak_windows import Watch, compose, plot, table, trend, verdict
from sharelora import UserError
from sharelora.reporting.document import NOTES
from sharelora.training.instructions.job import parse


def windows(resident: list[float], count: int = 16) -> list[dict[str, Any]]:
    made = {"process": 1, "handles": 20, "threads": 4, "children": 0, "cpu": 0.04, "seconds": 0.05}
    return [{**made, "step": 100 * (place + 1), "resident": resident[place]} for place in range(count)]


def test_growth_is_told_from_noise_and_from_a_start() -> None:
    wobbling = [1e9 + 1e6 * (place % 3) for place in range(16)]
    rising = [1e9 + 1e7 * place for place in range(16)]
    settling = [1e9 * (1 - 0.5**place) for place in range(1, 17)]
    assert verdict(windows(wobbling), "resident").startswith("does not grow")
    assert verdict(windows(settling), "resident").startswith("does not grow")
    assert verdict(windows(rising), "resident").startswith("**grows**: +14.3 ± 0.0 % over 1,600 more")
    noisy = [1e9 + 3e8 * (place * 7 % 5) for place in range(16)]
    assert verdict(windows(noisy), "resident").startswith("undecided")
    assert verdict(windows(rising), "handles") == "constant"


def test_a_slope_has_its_error() -> None:
    assert trend([0, 1, 2, 3], [1, 3, 5, 7]) == pytest.approx((2, 0))
    slope, error = trend([0, 1, 2], [0, 1, 0])
    assert slope == pytest.approx(0) and error == pytest.approx(2 * (2 / 3 / 2) ** 0.5)


def test_the_watch_measures_updates_alone_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 10.0, 13.0, 20.0, 22.0, 30.0, 31.0])
    monkeypatch.setattr("benchmarks.memory.soak_windows.clocks", lambda: (next(clock), 0.25))
    watch, state = Watch(tmp_path / "windows.json", 2), SimpleNamespace(global_step=0)
    watch.on_train_begin(None, state, None)
    for step in (1, 2, 3):
        watch.on_step_begin(None, state, None)
        state.global_step = step
        watch.on_step_end(None, state, None)
    (first,) = json.loads(watch.file.read_text())
    assert (first["step"], first["seconds"], first["cpu"]) == (2, 2.0, 0.0)
    assert first["resident"] > 1e7 and first["handles"] > 2 and first["threads"] >= 1
    # Killed after the third update, gone on from the first: what was seen after it is seen again.
    again = Watch(watch.file, 2)
    again.on_train_begin(None, SimpleNamespace(global_step=1), None)
    assert again.windows == []
    again.on_train_begin(None, SimpleNamespace(global_step=2), None)
    assert again.windows == [first]


@pytest.mark.slow
def test_the_document_has_a_column_for_each_eighth(tmp_path: Path) -> None:
    found = windows([5e8] * 16)
    text = compose({**report.facts("soak", {}), "windows": found}, "--tiny")
    assert table(found) in text and "| 100 " in table(found) and "| 1,600 " in table(found)
    assert "1,600 updates in 1 process, looked at 16 times" in text
    assert [file.name for file in plot(found, tmp_path / "soak")] == ["soak.svg", "soak.png"]


@pytest.mark.parametrize("bits", ["16", "32"])
def test_the_job_takes_the_command_line_without_a_notice(tmp_path: Path, bits: str) -> None:
    args = parse(soak.words(soak.arguments(["--bits", bits]), tmp_path))
    assert args.notices == () and args.train["max_steps"] == 20_000 and args.train["save_steps"] == 250


@pytest.mark.parametrize("flags", ["--steps 100 --windows 7", "--steps 50 --windows 20"])
def test_windows_are_equal_and_enough_to_judge(tmp_path: Path, flags: str) -> None:
    with pytest.raises(UserError, match="need 8 windows or more of equally many updates"):
        soak.train(soak.arguments(flags.split()), tmp_path)


@pytest.mark.slow
def test_the_quick_run_goes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHARELORA_DATA", raising=False)
    monkeypatch.setenv("SHARELORA_TINY_STEPS", "2")
    monkeypatch.setenv("SHARELORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["soak.py", "--quick", "--output", str(tmp_path)])
    soak.main()
    folder = tmp_path / "quick"
    assert NOTES in (folder / "soak.md").read_text() and (folder / "soak.svg").is_file()
    result = json.loads((folder / "soak.json").read_text())
    assert [window["step"] for window in result["windows"]] == list(range(4, 41, 4))
    assert (folder / "run" / "completed").is_file() and "step 40/40" in (folder / "run.log").read_text()
