"""The state of an output folder: new, interrupted or finished."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from transformers import TrainerState

from sharelora.flags.parser import FALSE, TRUE
from sharelora.support.errors import UserError
from sharelora.support.files import remove, require_writable, write_json
from sharelora.support.folders import recover
from sharelora.support.lock import Lock
from sharelora.support.reading import read_json
from sharelora.support.secrets import hidden
from sharelora.trainer.checkpoints import damage, find
from sharelora.trainer.devices import is_first
from sharelora.trainer.exact_state import STATE, TRAINER_STATE
from sharelora.training.arguments import ADAPTER, MODEL
from sharelora.tuner.files import CONFIG_FILE, SETTINGS

logger = logging.getLogger(__name__)

COMPLETED = "completed"
SELECTED = "selected.safetensors"  # the best weights so far, in a GLUE checkpoint
# How the rows of an update are dealt to processes; their product is the number of rows.
_DEALT = ("processes", "per_device_train_batch_size", "gradient_accumulation_steps")
MOST_OF_A_LOG = 1 << 30  # bytes; a long run logs hundreds of thousands of lines
_STEP = range(1 << 31)
# What the Trainer's own state has to be. Folders are named after its steps.
_STATE: Mapping[str, Any] = {
    **{"global_step?": _STEP, "best_global_step?": (_STEP, None), "max_steps?": _STEP, "epoch?": (float, None)},
    **{"log_history?": [{"step": _STEP}], "best_metric?": (float, None), "best_model_checkpoint?": (str, None)},
    **{"num_train_epochs?": (float, None), "num_input_tokens_seen?": range(1 << 63), "total_flos?": (float, None)},
    **{"logging_steps?": (float, None), "eval_steps?": (float, None), "save_steps?": (float, None)},
    "stateful_callbacks?": ({...: (dict, [dict])}, None),
}
_WRITTEN = (
    COMPLETED,
    SETTINGS,
    ADAPTER,
    MODEL,
    "checkpoint-*",
    "result*.json",
    "metrics.json",
    "all_results.json",
    "eval_results_*.json",
    "predictions",
    "predictions.jsonl",
    "loss.csv",
    "loss.png",
    "similarity.json",
)


@dataclass(frozen=True)
class Earlier:
    """What an earlier run left in the folder.

    Attributes:
        checkpoint: the last whole checkpoint of an interrupted run.
        damaged: checkpoints after it that are not whole, with what is wrong.
        trained: the adapter (or full model) of a finished run.
    """

    checkpoint: Path | None = None
    damaged: tuple[tuple[Path, str], ...] = ()
    trained: Path | None = None


def look(folder: Path, settings: Mapping[str, Any], training: bool, anyway: bool = False) -> Earlier:
    """Find what an earlier run left, and refuse to continue a run with other settings.

    Args:
        folder: the output folder, which may not exist yet.
        settings: everything that decides what is trained.
        training: whether this run means to train.
        anyway: continue with other settings all the same.

    Raises:
        UserError: the earlier run had other settings; the message names all of them.
    """
    marker, search = folder / COMPLETED, find(folder)
    if training and (marker.is_file() or search.good) and (folder / SETTINGS).is_file():
        _compare(folder, read_json(folder / SETTINGS), settings, anyway)
    if marker.is_file():
        return Earlier(trained=_trained(folder, read_json(marker)))
    return Earlier(search.good, search.damaged)


def _compare(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], anyway: bool) -> None:
    before, now = {"processes": 1, **before}, hidden(dict(now))
    # A finished run may be evaluated by any number of processes.
    evaluated = {"processes"} if (folder / COMPLETED).is_file() else set()
    dealt = set(_DEALT) if _dealt_otherwise(before, now) else set()
    changed = [name for name in now if name not in evaluated | dealt and before.get(name) != now[name]]
    if not changed:
        return
    words = "; ".join(f"{name} {before.get(name)}, this one has {now[name]}" for name in changed)
    if not anyway:
        raise UserError(
            f"{folder} holds a run with {words}; choose another --output_dir, --overwrite_output_dir to start "
            "again, or --resume_anyway to continue with the new settings"
        )
    logger.warning("continuing with other settings: %s holds a run with %s", folder, words)


def _dealt_otherwise(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether another number of processes shares the same rows per update."""
    counts = [[settings.get(name, 1) for name in _DEALT] for settings in (before, now)]
    if not all(isinstance(count, int) for each in counts for count in each):
        return False  # the comparison of all settings names the one that is none
    old, new = map(math.prod, counts)
    return bool(before["processes"] != now.get("processes", 1) and old == new)


def _trained(folder: Path, marker: Mapping[str, Any]) -> Path:
    name = marker.get("trained", ADAPTER)
    if name not in (ADAPTER, MODEL):  # the marker is a file, which could name any folder
        raise UserError(
            f"{folder / COMPLETED} names {name}; need {ADAPTER} or {MODEL}; --overwrite_output_dir starts again"
        )
    trained = folder / name
    if not trained.is_dir():
        raise UserError(
            f"{folder} is marked as finished but has no {trained.name}; --overwrite_output_dir starts again"
        )
    return trained


def open_folder(
    folder: Path,
    settings: Mapping[str, Any],
    training: bool,
    lock: Lock,
    *,
    overwrite: bool,
    anyway: bool,
    writes: bool,
    adapter_flag: str,
) -> Earlier:
    """Make sure that a run can write into its folder, and find what an earlier run left there.

    Args:
        folder: the output folder.
        settings: everything that decides what is trained.
        training: whether this run means to train.
        lock: keeps other runs out from now on.
        overwrite: remove what an earlier run wrote.
        anyway: continue a run with other settings all the same.
        writes: False for a run that only checks.
        adapter_flag: the flag that takes an adapter, for messages.

    Raises:
        UserError: it cannot be written, is in use or an adapter itself, or holds a run with other settings.
    """
    if (folder / CONFIG_FILE).is_file():
        raise UserError(
            f"output folder {folder} is an adapter, whose files would mix with the results; "
            f"pass {adapter_flag} {folder} and another --output_dir"
        )
    require_writable(folder)
    if is_first() and writes:
        lock.take(folder)
        recover(folder, _WRITTEN)
    if not overwrite:
        return look(folder, settings, training, anyway)
    if is_first() and writes:
        clear(folder)
    return Earlier()


def resume_point(folder: Path, requested: str | None, earlier: Earlier) -> Path | None:
    """Return the checkpoint to resume from, or None.

    Args:
        folder: the output folder.
        requested: value of --resume_from_checkpoint: a folder, true, false, or nothing.
        earlier: what is in the output folder.

    Raises:
        UserError: one was requested and is missing, it is incomplete, or its weights were altered.
    """
    word = str(requested).lower()
    word = {**dict.fromkeys(TRUE, "true"), **dict.fromkeys(FALSE, "false")}.get(word, word)
    if word == "false" and earlier.checkpoint is not None:
        raise UserError(f"{folder} has checkpoints; --overwrite_output_dir removes them and starts again")
    for path, problem in earlier.damaged:
        logger.warning("%s is incomplete or damaged: %s; it is left out", path, problem)
    if earlier.damaged and earlier.checkpoint is None and word in ("none", "true"):
        path, problem = earlier.damaged[0]
        raise UserError(
            f"{path} is incomplete or damaged: {problem}; {folder} has no good one; --overwrite_output_dir starts again"
        )
    if word == "true" and earlier.checkpoint is None:
        raise UserError(f"found --resume_from_checkpoint but {folder} has no checkpoint; drop the flag")
    if word in ("none", "true", "false"):
        return None if earlier.checkpoint is None else _resumable(earlier.checkpoint)
    checkpoint = Path(str(requested)).expanduser()
    flaw = damage(checkpoint)
    if flaw is not None:
        raise UserError(f"{checkpoint} is incomplete or damaged: {flaw}; name another one")
    return _resumable(checkpoint)


def _resumable(checkpoint: Path) -> Path:
    """Check that a whole checkpoint holds what a run needs, and nothing but numbers and text is read from it."""
    state = read_json(checkpoint / TRAINER_STATE, _STATE, MOST_OF_A_LOG)
    if not state.keys() <= {field.name for field in fields(TrainerState)}:
        raise UserError(
            f"{checkpoint / TRAINER_STATE} is of an unknown kind; need that of a run; use another checkpoint"
        )
    if not {path.name for path in checkpoint.glob("*.safetensors")} - {STATE, SELECTED}:
        raise UserError(
            f"{checkpoint} has no weights as safetensors; pickled ones could run code; use another checkpoint"
        )
    if not (checkpoint / STATE).is_file():
        raise UserError(
            f"{checkpoint} has weights alone, as --save_only_model writes; need one with {STATE} to resume from; "
            "pass its folder as an adapter to start from its weights, with another --output_dir"
        )
    return checkpoint


def begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Record what is about to be trained."""
    write_json(folder / SETTINGS, dict(settings))


def finish(folder: Path, trained: Path, steps: int) -> None:
    """Mark the run as finished: from now on the same command evaluates instead of training again."""
    write_json(folder / COMPLETED, {"trained": trained.name, "steps": steps})


def clear(folder: Path) -> None:
    """Remove what a run of this project writes, and nothing else."""
    for path in [path for pattern in _WRITTEN for path in folder.glob(pattern)]:
        logger.info("removing %s", path)
        remove(path)
