"""What an output folder says about an earlier run, and when a run goes on from it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from sharelora.support.errors import UserError
from sharelora.trainer.checkpoints import new_checkpoint
from sharelora.training.arguments import ADAPTER
from sharelora.training.instructions.job import JOB, parse
from sharelora.training.output import begin, finish, look, resume_point

BEFORE = {"learning_rate": 0.1, "lora_r": 4, "seed": 0, "processes": 1}
NOW = {"learning_rate": 0.2, "lora_r": 4, "seed": 1, "processes": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with one checkpoint."""
    begin(tmp_path, BEFORE)
    with new_checkpoint(tmp_path, 5) as aside:
        for name in ("adapter_model.safetensors", "training_state.safetensors"):
            (aside / name).write_bytes(b"x")
        (aside / "trainer_state.json").write_text(json.dumps({"global_step": 5}))
    return tmp_path


def test_everything_that_changed_is_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = "learning_rate 0.1, this one has 0.2; seed 0, this one has 1; processes 1, this one has 2"
    with pytest.raises(UserError, match=f"{words}; .*--overwrite_output_dir.*--resume_anyway"):
        look(folder, NOW, training=True)
    with caplog.at_level(logging.WARNING, "sharelora"):
        assert look(folder, NOW, training=True, anyway=True).checkpoint == folder / "checkpoint-5"
    assert words in caplog.text
    assert look(folder, NOW, training=False).checkpoint == folder / "checkpoint-5"


def test_a_finished_run_can_be_evaluated_by_any_number_of_processes(folder: Path) -> None:
    (folder / ADAPTER).mkdir()
    finish(folder, folder / ADAPTER, 5)
    assert look(folder, {**BEFORE, "processes": 8}, training=True).trained == folder / ADAPTER
    with pytest.raises(UserError, match="seed 0, this one has 1"):
        look(folder, {**BEFORE, "seed": 1}, training=True)


def test_what_is_gone_on_from(folder: Path) -> None:
    earlier = look(folder, BEFORE, training=True)
    place = folder / "checkpoint-5"
    assert resume_point(folder, None, earlier) == resume_point(folder, "true", earlier) == place
    assert resume_point(folder.parent, str(place), look(folder.parent / "new", BEFORE, training=True)) == place
    with pytest.raises(UserError, match="--overwrite_output_dir"):
        resume_point(folder, "false", earlier)


def test_weights_alone_are_no_place_to_go_on_from(folder: Path) -> None:
    """As --save_only_model leaves them."""
    place = folder / "checkpoint-6"
    with new_checkpoint(folder, 6) as aside:
        (aside / "adapter_model.safetensors").write_bytes(b"x")
        (aside / "trainer_state.json").write_text("{}")
    with pytest.raises(UserError, match=r"checkpoint-6 has weights alone.*--save_only_model"):
        resume_point(folder, None, look(folder, BEFORE, training=True))
    assert place.is_dir()


def test_what_chooses_the_best_checkpoint_decides_the_result() -> None:
    def decides(*more: str) -> set[str]:
        return set(JOB.deciding(parse(["--eval_strategy", "steps", *more])))

    assert {"eval_steps", "max_eval_samples"} & decides() == set()
    assert {"eval_steps", "save_steps", "max_eval_samples", "mmlu_split"} <= decides("--load_best_model_at_end")
    assert {"on_nan", "resume_anyway", "output_dir"} & decides("--load_best_model_at_end") == set()


DEALT = {"processes": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}


def test_another_number_of_processes_with_the_same_rows_per_update_goes_on(tmp_path: Path) -> None:
    begin(tmp_path, DEALT)
    with new_checkpoint(tmp_path, 5) as aside:
        (aside / "adapter_model.safetensors").write_bytes(b"x")
    for now in ((2, 4, 2), (2, 2, 4), (16, 1, 1)):
        look(tmp_path, dict(zip(DEALT, now, strict=True)), training=True)
    # The same rows, but other batches of one process: no reason to, and not bit by bit the same.
    for now in ((1, 2, 8), (2, 4, 4), (4, 4, 2)):
        with pytest.raises(UserError, match="holds a run with"):
            look(tmp_path, dict(zip(DEALT, now, strict=True)), training=True)
