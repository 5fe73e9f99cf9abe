"""The sequence of tasks on real data with a really trained model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from continual_runs import FLAGS, command


@pytest.mark.realdata
def test_a_task_is_better_once_it_is_learnt(
    shared_data: Path, shared_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARELORA_DATA", str(shared_data))
    monkeypatch.delenv("SHARELORA_TINY", raising=False)
    more = "--max_steps 6 --save_steps 6 --max_train_samples 48 --per_device_train_batch_size 8 --learning_rate 4e-3"
    where = ["--model", str(shared_models / "tiny-llama"), "--output", str(tmp_path), "--share", "a"]
    lengths = ["--max_eval_samples", "8", "--source_max_len", "160", "--target_max_len", "160"]
    args, words = command.read([*where, *FLAGS, *more.split(), *lengths])
    command.run(args, words, 0.0)
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    matrix = result["metrics"]["matrix"]
    assert len(matrix) == 4 and all(3 < loss < 9 for row in matrix for loss in row)
    for number, name in enumerate(result["metrics"]["tasks"]):
        assert matrix[number + 1][number] < matrix[number][number], f"{name} was learnt"
