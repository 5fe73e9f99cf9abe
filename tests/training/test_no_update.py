"""A run that would train nothing is refused before it begins, and one that trained nothing saves nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_llama import Job
from transformers import TrainingArguments

from sharelora.support.errors import UserError
from sharelora.trainer.guards import require_batch, require_schedule, require_update
from sharelora.training.trainer import ShareTrainer

EMPTY = {
    "no whole batch": (
        ("--per_device_train_batch_size", "64", "--dataloader_drop_last"),
        r"found 32 rows to train on and --dataloader_drop_last, .*at least 64; lower --per_device_train_batch_size",
    ),
    "no epoch": (("--num_train_epochs", "0", "--max_steps", "-1"), r"found --num_train_epochs 0; need more than 0"),
    "no step": (("--max_steps", "0"), r"found --max_steps 0; need at least 1"),
}


@pytest.mark.parametrize("dry", [(), ("--dry_run",)], ids=["run", "dry"])
@pytest.mark.parametrize("case", EMPTY)
def test_a_run_without_an_update_is_refused_before_the_model_is_loaded(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, dry: tuple[str, ...]
) -> None:
    def load(*args: Any, **options: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("sharelora.training.job.load_model", load)
    flags, message = EMPTY[case]
    with pytest.raises(UserError, match=message):
        job(*flags, *dry)
    assert not (tmp_path / "out").exists()


def test_what_trains_nothing_on_purpose_is_no_mistake(job: Job, tmp_path: Path) -> None:
    job("--do_train", "false", "--adapter", "none", "--do_eval", "--max_steps", "0")
    assert (tmp_path / "out" / "result.json").is_file()


def test_a_whole_batch_is_enough(job: Job, tmp_path: Path) -> None:
    job("--per_device_train_batch_size", "32", "--dataloader_drop_last", "--max_steps", "1", "--save_steps", "1")
    assert (tmp_path / "out" / "completed").is_file()


def test_where_every_update_was_left_out_nothing_is_saved(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ShareTrainer.compute_loss

    def compute_loss(self: ShareTrainer, *args: Any, **kwargs: Any) -> Any:
        loss = whole(self, *args, **kwargs)
        return loss * float("nan") if self.model.training else loss

    monkeypatch.setattr(ShareTrainer, "compute_loss", compute_loss)
    with pytest.raises(UserError, match="the training made no update: all 2 were left out"):
        job("--on_nan", "skip", "--max_steps", "2", "--save_strategy", "no")
    assert not (tmp_path / "out").exists()


def test_a_run_that_ends_without_an_update_saves_nothing(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShareTrainer, "get_train_dataloader", lambda self: [])
    with pytest.raises(UserError, match="the training made no update: there was none"):
        job("--save_strategy", "no")
    assert not (tmp_path / "out").exists()


def test_the_batches_of_all_processes_count(tmp_path: Path) -> None:
    args = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=4, dataloader_drop_last=True, use_cpu=True, report_to=[]
    )
    require_batch(args, 4, "train_batch_size")
    with pytest.raises(UserError, match=r"found 3 rows .* no batch of 4 rows .* lower --train_batch_size"):
        require_batch(args, 3, "train_batch_size")
    args.dataloader_drop_last = False
    require_batch(args, 1, "train_batch_size")
    with pytest.raises(UserError, match="found 0 rows to train on; need at least one"):
        require_batch(args, 0, "train_batch_size")


def test_steps_come_before_epochs() -> None:
    require_schedule(5, 0)
    require_schedule(-1, 0.5)
    require_update(3, 2)
    with pytest.raises(UserError, match="num_train_epochs"):
        require_schedule(-1, 0)
