"""A run that is stopped anywhere, any number of times, is the uninterrupted run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_encoders import Run
from stops import same_state, stop_often

MORE = ("--max_train_samples", "48", "--num_train_epochs", "2", "--reg_loss_wgt", "0.5", "--masking_prob", "0.2")
FILES = {"share_ab": "adapter_model.safetensors", "houlsby": "trained.safetensors"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "where"),
    [("share_ab", "on_step_begin"), ("share_ab", "on_prediction_step"), ("houlsby", "on_step_begin")],
)
def test_stopped_in_every_update_or_evaluation_it_is_the_same_run(
    job: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, where: str
) -> None:
    """With the best weights so far, an evaluation at every end of an epoch, and one checkpoint that is kept."""
    more, whole, broken = ("--method", method, *MORE), tmp_path / "whole", tmp_path / "broken"
    expected = job("--output_dir", whole, *more)
    found: dict[str, Any] = {}
    stops = stop_often(lambda: found.update(job("--output_dir", broken, *more)), monkeypatch, where, 12)
    assert stops >= (4 if where == "on_step_begin" else 2)
    file = f"adapter_model/{FILES[method]}"
    assert (whole / file).read_bytes() == (broken / file).read_bytes()
    same_state(whole, broken)
    for name in ("train_loss", "course", "selected_epoch", "best_epoch", "steps", "tokens"):
        assert found[name] == expected[name], name
