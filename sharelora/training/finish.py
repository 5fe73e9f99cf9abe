"""What a run leaves besides checkpoints: the adapter, result.json, QLoRA's metrics.json, the loss as table and plot."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError

from sharelora.reporting.history import CSV
from sharelora.support.errors import UserError, hide
from sharelora.support.files import atomic_folder, read_json, write_json
from sharelora.trainer.serialization import save_weights
from sharelora.training.generate import PREDICTIONS
from sharelora.training.output import ADAPTER, MODEL
from sharelora.tuner.files import WEIGHTS_FILE

logger = logging.getLogger(__name__)

METRICS = "metrics.json"
_MMLU = re.compile(r"mmlu_\w+_accuracy_(macro|micro)|mmlu_(eval|val|test)_accuracy")


def save_trained(model: Any, tokenizer: Any, folder: Path, weights: dict[str, Any] | None = None) -> Path:
    """Write what was trained, whole or not at all: an adapter, or a model folder that stands alone.

    The tokenizer is never changed, so an adapter needs none beside it.

    Args:
        model: a PEFT model, or a plain one after full fine-tuning.
        tokenizer: goes with a full model.
        folder: the run's folder.
        weights: the gathered weights of a model that an engine has cut into parts.

    Returns:
        The new folder in it.

    Raises:
        UserError: it cannot be written; then there is no such folder, and the checkpoints stay.
    """
    adapted = isinstance(model, PeftModel)
    path = folder / (ADAPTER if adapted else MODEL)
    with atomic_folder(path) as temporary:
        try:
            save_weights(model, temporary, weights)
        except SafetensorError as error:
            raise UserError(f"cannot write {path}: {error}; free space and start again") from error
        if not adapted:
            tokenizer.save_pretrained(str(temporary))
    return path


def write_metrics(folder: Path, run_name: str | None, metrics: Mapping[str, Any], anew: bool) -> Path:
    """Write metrics.json with QLoRA's fields: the run's name and every number.

    Args:
        folder: the run's folder.
        run_name: None means the folder's name.
        metrics: what was measured.
        anew: forget what an earlier run measured; an evaluation of a finished run adds to it.
    """
    path = folder / METRICS
    before = read_json(path) if path.is_file() and not anew else {}
    plain = {name: value for name, value in metrics.items() if isinstance(value, int | float | str)}
    write_json(path, {**before, "run_name": hide(run_name or str(folder)), **plain})
    return path


def result_files(folder: Path, trained: Path | None) -> dict[str, Path]:
    """Return the files that a result describes, as far as they exist."""
    model = {} if trained is None else {"adapter": trained / WEIGHTS_FILE, "model": trained / "model.safetensors"}
    every = {**model, "loss": folder / CSV, "predictions": folder / PREDICTIONS}
    return {name: path for name, path in every.items() if path.is_file()}


def course(history: list[dict[str, Any]]) -> dict[str, float]:
    """Return what was measured before the first update, and the lowest validation loss."""
    start = {name: value for line in history if line["step"] == 0 for name, value in line.items()}
    before = {f"{name}_before": start[name] for name in start if name == "eval_loss" or _MMLU.fullmatch(name)}
    losses = [line["eval_loss"] for line in history if "eval_loss" in line]
    return {**before, **({"eval_loss_best": min(losses)} if losses else {})}
