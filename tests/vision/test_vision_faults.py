"""What all training commands promise holds where images are read, the projector beside the adapter included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from small_vision import Job
from stops import same_state, stop_often

from sharelora.models.vision import PROJECTOR
from sharelora.support.errors import UserError
from sharelora.support.lock import Lock
from sharelora.trainer.checkpoints import checkpoints
from sharelora.training.trainer import ShareTrainer

ADAPTER = "adapter_model/adapter_model.safetensors"


@pytest.mark.slow
def test_stopped_in_every_update_it_is_the_same_run(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"max_steps": "3", "eval_strategy": "steps", "eval_steps": "2", "lora_dropout": "0.1"}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    job(output_dir=str(whole), **more)
    stops = stop_often(lambda: job(output_dir=str(broken), **more), monkeypatch, "on_step_begin", 5)
    assert stops == 3
    assert (whole / ADAPTER).read_bytes() == (broken / ADAPTER).read_bytes()
    same_state(whole, broken)
    # The projector is in every checkpoint, and goes on moving after an interruption.
    first, last = (load_file(path / "adapter_model.safetensors") for path in checkpoints(broken)[:2])
    beside = [name for name in first if PROJECTOR in name]
    assert len(beside) == 4 and not any(first[name].equal(last[name]) for name in beside)


def test_a_folder_has_one_run_at_a_time(job: Job, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with Lock() as lock:
        lock.take(tmp_path / "out")
        with pytest.raises(UserError, match="is in use by process"):
            job()


def test_an_update_that_is_no_number_can_be_left_out(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    own = ShareTrainer.compute_loss

    def spoiled(self: Any, *args: Any, **kwargs: Any) -> Any:
        return own(self, *args, **kwargs) * (float("nan") if self.state.global_step == 0 else 1.0)

    monkeypatch.setattr(ShareTrainer, "compute_loss", spoiled)
    args = job(on_nan="skip")
    assert json.loads((args.output_dir / "result.json").read_text())["metrics"]["skipped_updates"] == 1
