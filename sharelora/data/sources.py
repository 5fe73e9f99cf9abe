"""Find a data set: a local file, a folder of local data, or the hub."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sharelora.data.arguments import DataArguments
from sharelora.data.formats import check_format, format_by_columns
from sharelora.data.hub import from_hub
from sharelora.data.readers import READERS, Row, find_file, read_rows
from sharelora.data.registry import DATA_FOLDER, KNOWN, SPLIT_NAMES, KnownData, known
from sharelora.support.errors import UserError

logger = logging.getLogger(__name__)

ALL = "all"


@dataclass(frozen=True)
class Source:
    """A data set as read: its rows by split (`train`, `eval`, `test`), before any format.

    Args:
        name: what was asked for.
        origin: where it was found, for messages and results.
        format: the format to use.
        splits: the splits that exist.
    """

    name: str
    origin: str
    format: str
    splits: dict[str, list[Row]]


def find_source(args: DataArguments, data_root: Path | None = None) -> Source:
    """Find and read the data set that the arguments name.

    Args:
        args: the data flags.
        data_root: folder of local data; by default the environment variable SHARELORA_DATA. Where there is one, the
            hub is not asked.

    Raises:
        UserError: an unknown name, or no data where it was looked for.
    """
    if args.dataset_format is not None:
        check_format(args.dataset_format)
    if args.dataset not in KNOWN and _is_path(args.dataset):
        return _from_path(args)
    entry = known(args.dataset)
    root = data_root or (Path(os.environ[DATA_FOLDER]) if os.environ.get(DATA_FOLDER) else None)
    if root is not None:
        origin, splits = str(root), _from_folder(root, args.dataset, entry)
    else:
        origin, splits = str(entry.hub["path"]), from_hub(entry, args.dataset)
    splits = {split: _chosen(rows, entry, args.data_subset) for split, rows in splits.items()}
    return Source(args.dataset, origin, args.dataset_format or entry.format, splits)


def _is_path(name: str) -> bool:
    path = Path(name).expanduser()
    return path.exists() or path.suffix != "" or name.startswith((".", "/", "~"))


def _from_path(args: DataArguments) -> Source:
    path = Path(args.dataset).expanduser()
    if path.is_dir():
        splits = {split: read_rows(file) for split, file in _named_files(path, SPLIT_NAMES.items())}
        if not splits:
            raise UserError(f"{path} has no data; need a file such as train.jsonl in it; check the path")
    elif path.exists():
        splits = {"train": read_rows(path)}
    else:
        raise UserError(f"{path} not found; need a data file there, or one of {', '.join(KNOWN)}; check the path")
    splits = {split: _subset(rows, args.data_subset) for split, rows in splits.items()}
    first = next(iter(splits.values()))[0]
    return Source(args.dataset, str(path), args.dataset_format or format_by_columns(list(first)), splits)


def _named_files(folder: Path, names: Iterable[tuple[str, tuple[str, ...]]]) -> list[tuple[str, Path]]:
    """The first existing file of each split, among names without extension."""
    found = [(split, find_file(folder, stems)) for split, stems in names]
    return [(split, file) for split, file in found if file is not None]


def _from_folder(root: Path, name: str, entry: KnownData) -> dict[str, list[Row]]:
    names = {
        split: (*entry.local.get(split, ()), *(f"{name}/{word}" for word in words))
        for split, words in SPLIT_NAMES.items()
    }
    files = _named_files(root, names.items())
    if not files and entry.parts:
        return {"train": _united(root, name, entry)}
    if not files:
        looked = ", ".join(names["train"] + names["test"])
        raise UserError(
            f"no data set {name} in {root}: looked for {looked} as {', '.join(READERS)} (or .gz); put it there, pass "
            f"--dataset /path/to/a/file, unset {DATA_FOLDER} to load it from the hub, or add --tiny"
        )
    return {split: read_rows(file) for split, file in files}


def _united(root: Path, name: str, entry: KnownData) -> list[Row]:
    """The rows of all parts of a data set that are there; those that are not are named.

    Raises:
        UserError: there is none.
    """
    found = {part: find_file(root, [part]) for part in entry.parts}
    missing = [part for part, file in found.items() if file is None]
    if len(missing) == len(entry.parts):
        looked = ", ".join((*entry.local["train"], *entry.parts))
        raise UserError(
            f"no data set {name} in {root}: looked for {looked}; put some of them there, unset {DATA_FOLDER} to load "
            "it from the hub, or add --tiny"
        )
    if missing:
        logger.warning("warning: %s is trained on WITHOUT %s, which %s does not have", name, ", ".join(missing), root)
    return [row for file in found.values() if file is not None for row in read_rows(file)]


def _chosen(rows: list[Row], entry: KnownData, subset: str | None) -> list[Row]:
    if entry.where is not None:
        rows = _keep(rows, *entry.where)
    if subset is None and entry.subset is not None and "subset" in rows[0]:
        subset = entry.subset
    return _subset(rows, subset)


def _subset(rows: list[Row], subset: str | None) -> list[Row]:
    return rows if subset in (None, ALL) else _keep(rows, "subset", str(subset))


def _keep(rows: list[Row], column: str, value: str) -> list[Row]:
    kept = [row for row in rows if row.get(column) == value]
    if not kept:
        values = sorted({str(row[column]) for row in rows if column in row})
        found = f"{column} in {', '.join(values[:8])}" if values else f"the columns {', '.join(rows[0])}"
        raise UserError(f"found {found}; need rows with {column} {value}; change --data_subset or the data")
    return kept
