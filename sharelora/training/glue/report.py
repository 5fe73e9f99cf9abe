"""What a GLUE run leaves: the trained weights with their record, results, and predictions."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sharelora.data.glue import write_predictions
from sharelora.reporting.environment import peak_memory
from sharelora.reporting.history import CSV
from sharelora.reporting.results import plan_facts, write_result
from sharelora.support.errors import UserError
from sharelora.support.files import atomic_folder, read_json, sha256, write_json
from sharelora.training.glue.base import encoder_name
from sharelora.training.glue.record import Record
from sharelora.training.glue.session import Session
from sharelora.training.glue.store import FILE
from sharelora.training.output import MODEL
from sharelora.tuner.files import WEIGHTS_FILE

PREDICTIONS = "predictions"
WEIGHT_FILES = (WEIGHTS_FILE, FILE, "model.safetensors")
# How GLUE names the second half of MNLI.
_FILE_NAMES = {"dev_mismatched": "{task}-mm"}


def record_of(session: Session, epoch: float | None = None) -> Record:
    """Return what is written beside the run's weights."""
    task, flags = session.rows.task, session.args.flags
    return Record(
        task=task.name,
        labels=task.labels,
        method=session.method.name,
        settings={name: getattr(flags, name) for name in session.method.settings},
        base=encoder_name(session.args, session.place),
        base_sha256=session.base.fingerprint,
        max_seq_length=session.max_length,
        epoch=epoch,
    )


def save_trained(session: Session, epoch: float) -> Path:
    """Write what was trained, whole or not at all: an adapter with its head, or a model folder that stands alone.

    Args:
        session: the run; its model has the weights to keep.
        epoch: when these were the model's weights.

    Returns:
        The new folder in the run's folder.

    Raises:
        UserError: it cannot be written; then there is no such folder, and the checkpoints stay.
    """
    storage = session.method.storage
    path = session.args.output_dir / storage.folder
    for config in getattr(session.model, "peft_config", {}).values():
        config.base_model_name_or_path = encoder_name(session.args, session.place)
    with atomic_folder(path) as temporary:
        try:
            storage.save(session.model, temporary)
        except SafetensorError as error:
            raise UserError(f"cannot write {path}: {error}; free space and start again") from error
        if storage.folder == MODEL:
            session.tokenizer.save_pretrained(str(temporary))
        write_record(session, temporary, epoch)
    return path


def write_record(session: Session, folder: Path, epoch: float | None) -> None:
    """Write the record beside weights, with the checksum of those that PEFT does not save."""
    weights = folder / FILE
    checksum = sha256(weights) if weights.is_file() else None
    dataclasses.replace(record_of(session, epoch), weights_sha256=checksum).write(folder)


def weight_file(folder: Path) -> Path:
    """Return the file of weights in a folder of trained ones."""
    return next(folder / name for name in WEIGHT_FILES if (folder / name).is_file())


def write_evaluations(session: Session, entry: Mapping[str, float], which: str) -> None:
    """Write `eval_results_<task>.json` for each of the task's own splits: MNLI's two do not overwrite each other.

    Args:
        session: the run.
        entry: `<split>_<metric>` -> value, and the epoch.
        which: which epoch's weights these are: `selected`, `last` or `evaluated`.
    """
    rows = session.rows
    for split in rows.dev:
        name = _FILE_NAMES.get(split, "{task}").format(task=rows.task.name)
        values = {f"eval_{metric}": entry[f"{split}_{metric}"] for metric in rows.metric_names}
        facts = {"eval_samples": len(rows.splits[split]), "epoch": entry.get("epoch"), "weights": which}
        write_json(session.args.output_dir / f"eval_results_{name}.json", {**values, **facts})


def predict(session: Session) -> list[Path]:
    """Write predictions of every test split in GLUE's format; one process does."""
    files, folder = [], session.args.output_dir / PREDICTIONS
    for split in session.rows.predicted:
        logits = session.trainer.logits(session.data.tokens[split])
        if session.first:
            index = [row["idx"] for row in session.rows.splits[split]]
            files.append(write_predictions(folder, session.rows.task, split, logits, index))
    return files


def report(session: Session) -> Path:
    """Write result.json and all_results.json; after training, and again when everything has been measured."""
    args, folder = session.args, session.args.output_dir
    session.metrics["peak_memory_bytes"] = peak_memory()
    training = session.plan.training
    trained = {"adapter": weight_file(session.trained)} if session.trained else {}
    others = {f"predictions_{file.stem}": file for file in sorted((folder / PREDICTIONS).glob("*"))}
    others["loss"] = folder / CSV
    path = write_result(
        folder,
        "train" if training else "evaluate",
        {
            **args.to_json(),
            "learned_by": session.method.name,
            "precision": str(session.plan.precision),
            "data": session.rows.origin,
        },
        {**session.metrics, "truncated": dict(session.data.truncated)},
        plan_facts(session.model) if session.trained else None,
        {**trained, **{name: file for name, file in others.items() if file.is_file()}},
        time.monotonic() - session.started,
        model=encoder_name(args, session.place),
        run=args.train["run_name"],
        seed=args.train["seed"],
    )
    write_all(folder / "all_results.json", session.metrics, anew=training)
    return path


def write_all(path: Path, metrics: Mapping[str, Any], anew: bool) -> None:
    """Write every number in one file, as the Trainer does; an evaluation of a finished run adds to it."""
    before = read_json(path) if path.is_file() and not anew else {}
    plain = {name: value for name, value in metrics.items() if isinstance(value, int | float | str)}
    write_json(path, {**before, **plain})
