"""The rows of an instruction data set, by its name or its path."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from sharelora.data.arguments import DataArguments
from sharelora.data.find import data_folder, find_file, find_splits, local_file, not_found
from sharelora.data.folders import folder_splits, rows_of
from sharelora.data.formats import check_format, format_of
from sharelora.data.registry import KNOWN, InstructionDataset, known
from sharelora.data.rows import Row, read_rows
from sharelora.support.errors import UserError

logger = logging.getLogger(__name__)

ALL = "all"


@dataclass(frozen=True)
class Source:
    """A data set as read: its rows by split (`train`, `eval`, `test`), before any format.

    Args:
        name: its name or path, as given.
        origin: where it was found, for messages and results.
        format: the format to use.
        splits: the splits that exist.
    """

    name: str
    origin: str
    format: str
    splits: dict[str, list[Row]]


def find_source(args: DataArguments, root: Path | None = None) -> Source:
    """Find and read the data set that the arguments name.

    Args:
        args: the data flags.
        root: folder of local data; by default the environment variable SHARELORA_DATA. Where there is one, the hub is
            not asked.

    Raises:
        UserError: an unknown name, or no data where it was looked for.
    """
    if args.dataset_format is not None:
        check_format(args.dataset_format)
    if args.dataset not in KNOWN and means_path(args.dataset):
        return _from_path(args, Path(args.dataset).expanduser())
    dataset, folder = known(args.dataset), data_folder(root)
    if folder is not None and dataset.parts and not any(local_file(dataset, split, folder) for split in dataset.files):
        splits = {"train": _parts(dataset, folder)}
    else:
        splits = {split: source.rows() for split, source in find_splits(dataset, folder).items()}
    splits = {split: _selected(rows, dataset, args.data_subset) for split, rows in splits.items()}
    origin = str(dataset.hub["path"] if folder is None else folder)
    return Source(args.dataset, origin, args.dataset_format or dataset.format, splits)


def means_path(name: str) -> bool:
    """Whether what was given for a data set is a path rather than a name."""
    path = Path(name).expanduser()
    return path.exists() or path.suffix != "" or name.startswith((".", "/", "~"))


def _from_path(args: DataArguments, path: Path) -> Source:
    if path.is_dir():
        splits = {split: rows_of(parts) for split, parts in folder_splits(path).items()}
    elif path.exists():
        splits = {"train": read_rows(path)}
    else:
        raise UserError(f"{path} not found; need a data file there, or one of {', '.join(KNOWN)}; check the path")
    splits = {split: _subset(rows, args.data_subset) for split, rows in splits.items()}
    return Source(args.dataset, str(path), args.dataset_format or format_of(next(iter(splits.values()))), splits)


def _parts(dataset: InstructionDataset, folder: Path) -> list[Row]:
    """The rows of all parts of a data set that are there; those that are not are named.

    Raises:
        UserError: there is none.
    """
    files = {part: find_file(folder, [part]) for part in dataset.parts}
    missing = [part for part, file in files.items() if file is None]
    if len(missing) == len(files):
        raise not_found(dataset, ["train"], folder, dataset.parts)
    if missing:
        logger.warning(
            "warning: %s is trained on WITHOUT %s, which %s does not have", dataset.name, ", ".join(missing), folder
        )
    return [row for file in files.values() if file is not None for row in read_rows(file)]


def _selected(rows: list[Row], dataset: InstructionDataset, subset: str | None) -> list[Row]:
    if dataset.where is not None:
        rows = _with_value(rows, *dataset.where)
    if subset is None and dataset.subset is not None and "subset" in rows[0]:
        subset = dataset.subset
    return _subset(rows, subset)


def _subset(rows: list[Row], subset: str | None) -> list[Row]:
    return rows if subset in (None, ALL) else _with_value(rows, "subset", str(subset))


def _with_value(rows: list[Row], column: str, value: str) -> list[Row]:
    matching = [row for row in rows if row.get(column) == value]
    if not matching:
        values = sorted({str(row[column]) for row in rows if row.get(column) is not None})
        present = f"{column} in {', '.join(values[:8])}" if values else f"the columns {', '.join(rows[0])}"
        raise UserError(f"found {present}; need rows with {column} {value}; change --data_subset or the data")
    return matching
