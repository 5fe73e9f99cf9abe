"""The evaluations of a run: one entry per epoch, and the epochs that a result names: last, selected, best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sharelora.training.glue.data import HELD_OUT, LOSS, TaskRows
from sharelora.training.glue.selection import better

Entry = dict[str, float]


def read_course(history: Iterable[Mapping[str, Any]], rows: TaskRows) -> list[Entry]:
    """Return the evaluations in a Trainer's log, first to last.

    Args:
        history: the log, one mapping per line; each split has a line of its own.
        rows: says which splits and metrics there are.

    Returns:
        For each evaluation `step`, `epoch`, and `<split>_<metric>` of every split.
    """
    names = [f"{split}_{metric}" for split in rows.evaluated for metric in rows.metric_names]
    found: dict[int, Entry] = {}
    for line in history:
        values = {name: line[f"eval_{name}"] for name in names if f"eval_{name}" in line}
        if values:
            place = {"step": line["step"], "epoch": line["epoch"]}
            found.setdefault(int(line["step"]), place).update(values)
    return [found[step] for step in sorted(found)]


def best_entry(course: Sequence[Entry], name: str) -> Entry:
    """Return the first of the entries with the best value."""
    best = course[0]
    for entry in course[1:]:
        if better(LOSS if name.endswith(LOSS) else name, entry[name], best[name]):
            best = entry
    return best


def summary(course: Sequence[Entry], rows: TaskRows, selected_step: int | None) -> dict[str, Any]:
    """Return what a result says about the epochs of a run.

    Args:
        course: what `read_course` returns; not empty.
        rows: the task.
        selected_step: the evaluation that the held-out rows chose; None if nothing was chosen.

    Returns:
        `<split>_<metric>_last`, `_selected` (the epoch that is best on the held-out rows) and `_best_epoch` (the one
        that is best on the task's own dev rows, which LoRA's authors report), the epochs themselves, and the course.
    """
    chosen: dict[str, Entry] = {"last": course[-1]}
    chosen.update(("selected", entry) for entry in course if entry["step"] == selected_step)
    if rows.dev:
        chosen["best_epoch"] = best_entry(course, f"{rows.dev[0]}_{rows.main_metric}")
    found: dict[str, Any] = {}
    for which, entry in chosen.items():
        # The best dev epoch says nothing about held-out rows.
        splits = [split for split in rows.evaluated if which != "best_epoch" or split != HELD_OUT]
        found |= {f"{split}_{m}_{which}": entry[f"{split}_{m}"] for split in splits for m in rows.metric_names}
    names = {"last": "last_epoch", "selected": "selected_epoch", "best_epoch": "best_epoch"}
    return {**found, **{names[which]: entry["epoch"] for which, entry in chosen.items()}, "course": list(course)}
