"""The rows of a task, from the official files, the hub or own files; and parts of them, held out or the first ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.data.find import KnownDataset, data_folder, find_splits
from sharelora.data.glue.files import read_split
from sharelora.data.glue.own_files import read_own
from sharelora.data.glue.tasks import HUB, GlueTask, glue_task
from sharelora.data.rows import BadCell, Row, cell, numbered_rows, place
from sharelora.support.errors import UserError


@dataclass(frozen=True)
class GlueData:
    """The rows of a task.

    Args:
        task: the task; for own files made from the columns and labels that were found.
        origin: where the rows were found, for messages and results.
        splits: split -> rows, as far as there are any. A row has the task's text columns, `idx` (its number in the
            split, for submissions) and `label`: the id of a class, or a score. Test rows have no label.
    """

    task: GlueTask
    origin: str
    splits: Mapping[str, list[Row]]

    def rows(self, split: str) -> list[Row]:
        """The rows of a split that is needed.

        Raises:
            UserError: there are none.
        """
        if self.splits.get(split):
            return self.splits[split]
        present = ", ".join(split for split, rows in self.splits.items() if rows) or "nothing"
        where = f"task {self.task.name} from {self.origin}"
        raise UserError(f"{where} has rows for {present}; need {split}; add that split")


def load_glue(
    task_name: str | None,
    *,
    train_file: str | Path | None = None,
    validation_file: str | Path | None = None,
    test_file: str | Path | None = None,
    data_root: Path | None = None,
    load: Callable[..., Any] | None = None,
) -> GlueData:
    """Find and read a task.

    Args:
        task_name: one of GLUE's nine; None for own files.
        train_file: own rows with a column `label`, to learn; this and the others are files, or folders with splits.
        validation_file: the same, to be evaluated on.
        test_file: own rows to be predicted; a label is not needed.
        data_root: folder with `glue/<Task>/{train,dev,test}.tsv` (or .tsv.gz) as in the official download; by default
            the environment variable SHARELORA_DATA. Where there is one, the hub is not asked.
        load: replaces `datasets.load_dataset`.

    Raises:
        UserError: an unknown task, a task and own files at once, neither, no data, or data that do not fit the task.
    """
    own_files = {"train": train_file, "dev": validation_file, "test": test_file}
    files = {split: Path(file).expanduser() for split, file in own_files.items() if file is not None}
    if task_name is None:
        return GlueData(*read_own(files))
    if files:
        names = ", ".join(map(str, files.values()))
        raise UserError(f"found the task {task_name} and the own file {names}; need one of them; leave out the other")
    task = glue_task(task_name)
    folder = data_folder(data_root)
    sources = find_splits(dataset_of(task), folder, load)
    if folder is None:
        return GlueData(task, HUB, {split: _hub_rows(source.hub, task, split) for split, source in sources.items()})
    splits = {split: read_split(source.file, task, split) for split, source in sources.items() if source.file}
    return GlueData(task, str(folder / "glue" / task.folder), splits)


def dataset_of(task: GlueTask) -> KnownDataset:
    """Where a task's splits are: the official files, or a configuration of the hub's set."""
    return KnownDataset(
        name=task.name,
        hub={"path": HUB, "name": task.name},
        files={split: (f"glue/{task.folder}/{split}",) for split in task.splits},
        # The hub's `validation_matched` is the official file `dev_matched`.
        hub_splits={split: (split.replace("dev", "validation"),) for split in task.splits},
        extensions=(".tsv", ".tsv.gz"),
        instead="pass --train_file and --validation_file",
    )


def _hub_rows(split_of_hub: Any, task: GlueTask, split: str) -> list[Row]:
    """The rows of a split that `datasets` loaded; other columns, class names or orders of classes are refused."""
    where, ways = f"task {task.name} of {HUB}", dataset_of(task).ways
    missing = {*task.columns, "label"} - set(split_of_hub.column_names)
    if missing:
        columns = ", ".join(split_of_hub.column_names)
        raise UserError(f"{where} has the columns {columns}; need {', '.join(missing)} too; {ways}")
    names = getattr(split_of_hub.features["label"], "names", None)
    if names is not None and tuple(names) != task.labels:
        raise UserError(f"{where} has the labels {', '.join(names)}; need {', '.join(task.labels)}; {ways}")
    rows = []
    for number, row in enumerate(numbered_rows(split_of_hub.to_list(), f"{where}, {split}")):
        at = place(row, number + 1)
        try:
            texts: Row = {**{column: cell(row, column) for column in task.columns}, "idx": row.get("idx", number)}
        except BadCell as error:
            raise UserError(f"{at}: found {error}; need text; {ways}") from error
        if split not in task.test_splits:
            texts["label"] = row["label"]
            if row["label"] is None or (not task.regression and not 0 <= row["label"] < task.num_labels):
                raise UserError(f"{at}: found no label; {ways}")
        rows.append(texts)
    return rows


def hold_out(rows: Sequence[Row], amount: float, seed: int, stratify: bool) -> tuple[list[Row], list[Row]]:
    """Split rows in two, the same for the same seed, each part in its old order.

    Args:
        rows: training rows.
        amount: how many are held out: a fraction below 1, or a whole number; 0 for none.
        seed: of the choice.
        stratify: keep the share of each label, to within a row.

    Returns:
        The rows to train on and the rows that are held out.

    Raises:
        UserError: an amount out of range, or one that leaves nothing to train on.
    """
    count = _count(len(rows), amount)
    rng = random.Random(seed)
    groups = _by_label(rows) if stratify else [list(range(len(rows)))]
    sizes = _shares([len(group) for group in groups], count)
    held = {index for group, size in zip(groups, sizes, strict=True) for index in rng.sample(group, size)}
    rest = [row for index, row in enumerate(rows) if index not in held]
    return rest, [rows[index] for index in sorted(held)]


def _count(rows: int, amount: float) -> int:
    if amount < 0 or (amount >= 1 and amount != int(amount)):
        raise UserError(
            f"found held_out {amount:g}; need a fraction below 1 or a whole number of rows; change --held_out"
        )
    count = int(amount) if amount >= 1 else round(amount * rows)
    count = max(1, count) if amount else 0
    if count and count >= rows:
        raise UserError(
            f"found {rows} training rows and held_out {amount:g}, which leaves nothing to train on; need more rows; "
            "add rows or pass --held_out 0"
        )
    return count


def _by_label(rows: Sequence[Row]) -> list[list[int]]:
    """The indices of each label's rows, in the order of labels."""
    groups: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row["label"], []).append(index)
    return [groups[label] for label in sorted(groups)]


def _shares(sizes: Sequence[int], count: int) -> list[int]:
    """Divide a count in proportion to sizes: whole numbers, the largest remainders rounded up."""
    total = sum(sizes)
    shares = [count * size // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda index: -(count * sizes[index] % total))
    for index in by_remainder[: count - sum(shares)]:
        shares[index] += 1
    return shares


def take(rows: Sequence[Row], limit: int | None) -> list[Row]:
    """The first rows, as LoRA's script takes them.

    Args:
        rows: any rows.
        limit: how many at most; None for all.

    Raises:
        UserError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f"found a limit of {limit} rows; need at least 1; change the --max_..._samples flag")
    return list(rows[:limit])
