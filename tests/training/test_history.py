"""The loss as a table and as a picture."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from sharelora.reporting.history import write_history

LOG = [
    {"step": 0, "eval_loss": 3.0, "epoch": 0},
    {"step": 2, "loss": 2.5, "epoch": 0.5, "learning_rate": 0.1},
    {"step": 2, "eval_loss": 2.0, "epoch": 0.5},
]


def test_lines_of_one_step_are_one_row(tmp_path: Path) -> None:
    write_history(tmp_path, LOG)
    rows = (tmp_path / "loss.csv").read_text().splitlines()
    assert rows == ["step,epoch,loss,eval_loss,learning_rate", "0,0,,3.0,", "2,0.5,2.5,2.0,0.1"]


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="no matplotlib")
def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    files = write_history(tmp_path, LOG)
    assert files == [tmp_path / "loss.csv", tmp_path / "loss.png"]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    write_history(tmp_path, [])


def test_without_matplotlib_there_is_the_table_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharelora.reporting.pictures.importlib.util.find_spec", lambda name: None)
    assert write_history(tmp_path, LOG) == [tmp_path / "loss.csv"]
