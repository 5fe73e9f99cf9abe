"""The state of an output folder: new, interrupted or finished."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.attach import CONFIG
from sharelora.config import verify_weights
from sharelora.errors import UserError
from sharelora.files import read_json, require_writable, write_json
from sharelora.training.machine import is_first

logger = logging.getLogger(__name__)

COMPLETED = "completed"
SETTINGS = "settings.json"
ADAPTER = "adapter_model"  # QLoRA's name for the folder
MODEL = "model"
STATE = "trainer_state.json"  # the last file that the Trainer writes into a checkpoint
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
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
        trained: the adapter (or full model) of a finished run.
    """

    checkpoint: Path | None = None
    trained: Path | None = None


def checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints in a folder, first to last; one that was cut off while being written is left out."""
    found = [path for path in folder.glob("checkpoint-*") if _CHECKPOINT.fullmatch(path.name)]
    whole = [path for path in found if (path / STATE).is_file()]
    return sorted(whole, key=lambda path: int(path.name.split("-")[1]))


def look(folder: Path, settings: Mapping[str, Any], training: bool) -> Earlier:
    """See what an earlier run left, and refuse to go on from a run with other settings.

    Args:
        folder: the output folder, which may not exist yet.
        settings: everything that decides what is trained.
        training: whether this run means to train.

    Raises:
        UserError: the earlier run had other settings; the message names the first of them.
    """
    done = folder / COMPLETED
    last = checkpoints(folder)
    if training and (done.is_file() or last) and (folder / SETTINGS).is_file():
        _compare(folder, read_json(folder / SETTINGS), settings)
    if done.is_file():
        return Earlier(trained=_trained(folder, read_json(done)))
    return Earlier(checkpoint=last[-1] if last else None)


def _compare(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        name = changed[0]
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise UserError(
            f"{folder} holds a run with {name} {before.get(name)}, this one has {now[name]}{more}; "
            "choose another --output_dir, or --overwrite_output_dir to start anew"
        )


def _trained(folder: Path, marker: Mapping[str, Any]) -> Path:
    trained = folder / str(marker.get("trained", ADAPTER))
    if not trained.is_dir():
        raise UserError(f"{folder} is marked as finished but has no {trained.name}; --overwrite_output_dir starts anew")
    return trained


def open_folder(
    folder: Path, settings: Mapping[str, Any], training: bool, *, overwrite: bool, writes: bool, adapter_flag: str
) -> Earlier:
    """See to it that a run can write into its folder, and see what an earlier run left there.

    Args:
        folder: the output folder.
        settings: everything that decides what is trained.
        training: whether this run means to train.
        overwrite: remove what an earlier run wrote.
        writes: False for a run that only checks.
        adapter_flag: the flag that takes an adapter, for messages.

    Raises:
        UserError: it cannot be written, is an adapter itself, or holds a run with other settings.
    """
    if (folder / CONFIG).is_file():
        raise UserError(
            f"output folder {folder} is an adapter, whose files would mix with the results; "
            f"pass {adapter_flag} {folder} and another --output_dir"
        )
    require_writable(folder)
    if not overwrite:
        return look(folder, settings, training)
    if is_first() and writes:
        clear(folder)
    return Earlier()


def resume_point(folder: Path, asked: str | None, earlier: Earlier) -> Path | None:
    """Return the checkpoint to go on from, or None.

    Args:
        folder: the output folder.
        asked: value of --resume_from_checkpoint: a folder, true, false, or nothing.
        earlier: what is in the output folder.

    Raises:
        UserError: there is none where one is asked for, it is not whole, or its weights were altered.
    """
    word = str(asked).lower()
    if word == "false" and earlier.checkpoint is not None:
        raise UserError(f"{folder} has checkpoints; --overwrite_output_dir removes them and starts anew")
    if word == "true" and earlier.checkpoint is None:
        raise UserError(f"found --resume_from_checkpoint but {folder} has no checkpoint; drop the flag")
    place = Path(str(asked)) if word not in ("none", "true", "false") else earlier.checkpoint
    if place is None:
        return None
    if not (place / STATE).is_file():
        raise UserError(f"{place} is no whole checkpoint: {STATE} is missing; name another one")
    if (place / CONFIG).is_file():
        # PEFT looks at the weights alone when it loads into an adapter that is there already.
        verify_weights(place, read_json(place / CONFIG).get("weights_sha256"))
    return place


def begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Record what is about to be trained."""
    write_json(folder / SETTINGS, dict(settings))


def finish(folder: Path, trained: Path, steps: int) -> None:
    """Mark the run as finished: from now on the same command evaluates instead of training again."""
    write_json(folder / COMPLETED, {"trained": trained.name, "steps": steps})


def clear(folder: Path) -> None:
    """Remove what a run of ours writes, and nothing else."""
    for path in [path for pattern in _WRITTEN for path in folder.glob(pattern)]:
        logger.info("removing %s", path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
