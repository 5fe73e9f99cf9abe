"""The results of a run: what was trained, and files with every number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel

from sharelora.support.files import write_json
from sharelora.support.folders import atomic_folder
from sharelora.support.reading import read_json
from sharelora.trainer.serialization import save_weights
from sharelora.training.arguments import ADAPTER, MODEL
from sharelora.tuner.files import WEIGHTS_FILE

METRICS = "metrics.json"  # QLoRA's
_MMLU = re.compile(r"mmlu_\w+_accuracy_(macro|micro)|mmlu_(eval|val|test)_accuracy")


def save_trained(model: Any, tokenizer: Any, folder: Path, weights: dict[str, Any] | None = None) -> Path:
    """Write what was trained, all of it or nothing: an adapter, or a model folder that needs no other.

    The tokenizer is never changed, so an adapter needs none.

    Args:
        model: a PEFT model, or a plain one after full fine-tuning.
        tokenizer: goes with a full model.
        folder: the run's folder.
        weights: the gathered weights of a model that an engine has cut into parts.

    Returns:
        The new folder in it.

    Raises:
        UserError: it cannot be written; then the folder does not exist, and the checkpoints stay.
    """
    adapted = isinstance(model, PeftModel)
    path = folder / (ADAPTER if adapted else MODEL)
    with atomic_folder(path) as temporary:
        save_weights(model, temporary, weights)
        if not adapted:
            tokenizer.save_pretrained(str(temporary))
    return path


def weight_files(trained: Path | None) -> dict[str, Path]:
    """Return the files with the weights of what was trained, for a result."""
    return {} if trained is None else {"adapter": trained / WEIGHTS_FILE, "model": trained / "model.safetensors"}


def write_numbers(path: Path, metrics: Mapping[str, Any], add: bool, **first: str) -> None:
    """Write every plain metric into one file.

    Args:
        path: the file.
        metrics: what was measured.
        add: keep what an earlier run measured, as an evaluation of a finished run does.
        first: more entries, in front of the metrics.
    """
    before = read_json(path) if add and path.is_file() else {}
    plain = {name: value for name, value in metrics.items() if isinstance(value, int | float | str)}
    write_json(path, {**before, **first, **plain})


def before_and_best(history: list[dict[str, Any]]) -> dict[str, float]:
    """Return what was measured before the first update, and the lowest validation loss."""
    start = {name: value for line in history if line["step"] == 0 for name, value in line.items()}
    before = {f"{name}_before": start[name] for name in start if name == "eval_loss" or _MMLU.fullmatch(name)}
    losses = [line["eval_loss"] for line in history if "eval_loss" in line]
    return {**before, **({"eval_loss_best": min(losses)} if losses else {})}
