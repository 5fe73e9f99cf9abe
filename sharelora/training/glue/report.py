"""The results that only a GLUE run has: the trained weights with their record, evaluations, and predictions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharelora.data.glue import write_predictions
from sharelora.support.files import write_json
from sharelora.support.folders import atomic_folder
from sharelora.training.arguments import MODEL
from sharelora.training.glue.data import TaskData, TaskRows
from sharelora.training.glue.record import WEIGHTS
from sharelora.training.glue.trainer import GlueTrainer
from sharelora.training.run import Run
from sharelora.tuner.files import WEIGHTS_FILE

PREDICTIONS = "predictions"
WEIGHT_FILES = (WEIGHTS_FILE, WEIGHTS, "model.safetensors")
# How GLUE names the second half of MNLI.
_FILE_NAMES = {"dev_mismatched": "{task}-mm"}


def save_trained(run: Run[Any], trainer: GlueTrainer, tokenizer: Any, epoch: float) -> Path:
    """Write what was trained, all of it or nothing: an adapter with its head, or a model folder that needs no other.

    Args:
        run: whose folder it goes to.
        trainer: its model has the weights to keep.
        tokenizer: goes with a whole model.
        epoch: when these were the model's weights.

    Returns:
        The new folder in the run's folder.

    Raises:
        UserError: it cannot be written; then the folder does not exist, and the checkpoints stay.
    """
    model, storage = trainer.model, trainer.storage
    path = run.folder / storage.folder
    for config in getattr(model, "peft_config", {}).values():
        config.base_model_name_or_path = run.base_name
    with atomic_folder(path) as temporary:
        storage.save(model, temporary)
        if storage.folder == MODEL:
            tokenizer.save_pretrained(str(temporary))
        trainer.record.write(temporary, epoch)
    return path


def weight_file(folder: Path) -> Path:
    """Return the file of weights in a folder of trained ones."""
    return next(folder / name for name in WEIGHT_FILES if (folder / name).is_file())


def write_evaluations(run: Run[Any], rows: TaskRows, entry: Mapping[str, float], which: str) -> None:
    """Write `eval_results_<task>.json` for each of the task's own splits: MNLI's two do not overwrite each other.

    Args:
        run: whose folder they go to.
        rows: the task.
        entry: `<split>_<metric>` -> value, and the epoch.
        which: which epoch's weights these are: `selected`, `last` or `evaluated`.
    """
    for split in rows.dev:
        name = _FILE_NAMES.get(split, "{task}").format(task=rows.task.name)
        values = {f"eval_{metric}": entry[f"{split}_{metric}"] for metric in rows.metric_names}
        facts = {"eval_samples": len(rows.splits[split]), "epoch": entry.get("epoch"), "weights": which}
        write_json(run.folder / f"eval_results_{name}.json", {**values, **facts})


def predict(run: Run[Any], trainer: GlueTrainer, data: TaskData, writes: bool) -> list[Path]:
    """Write predictions of every test split in GLUE's format; one process does.

    Args:
        run: whose folder they go to.
        trainer: predicts.
        data: the test splits.
        writes: whether this process does.
    """
    files = []
    for split in data.rows.predicted:
        logits = trainer.logits(data.tokens[split])
        if writes:
            index = [row["idx"] for row in data.rows.splits[split]]
            files.append(write_predictions(run.folder / PREDICTIONS, data.rows.task, split, logits, index))
    return files
