"""Folders of data as splits: our own names of files, a data set as the hub lays it out, one that `datasets` saved.

train.jsonl, validation.csv ...                       a file a split
data/train-00000-of-00002.parquet ..., README.md      a copy of a repository of the hub; the YAML in README.md counts
dataset_info.json, state.json, data-....arrow         Dataset.save_to_disk; with dataset_dict.json a DatasetDict
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharelora.data.find import SPLIT_NAMES, SplitSource, find_file
from sharelora.data.rows import Row, read_rows
from sharelora.support.errors import UserError
from sharelora.support.reading import library_errors
from sharelora.support.text import one_line

logger = logging.getLogger(__name__)

# The parts of each split, `train`, `eval` or `test`, in their order.
Splits = dict[str, list[SplitSource]]


def folder_splits(folder: Path) -> Splits:
    """Find the splits of a folder.

    Raises:
        UserError: there is no data, it cannot be read, or none of its splits is one to train, evaluate or test on.
    """
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _saved(folder)
    files = {split: find_file(folder, names) for split, names in SPLIT_NAMES.items()}
    found = {split: [SplitSource(str(file), file=file)] for split, file in files.items() if file is not None}
    return found or _published(folder)


def read_table(path: Path, split: str) -> list[Row]:
    """Read a file, or one split of a folder.

    Args:
        path: a file of a kind that `read_rows` reads, or a folder.
        split: `train`, `eval` or `test`; of a folder with a single split that one is taken.

    Raises:
        UserError: see `read_rows` and `folder_splits`; or the folder lacks the split.
    """
    if not path.is_dir():
        return read_rows(path)
    splits = folder_splits(path)
    if split not in splits and len(splits) > 1:
        raise UserError(f"{path} has the splits {', '.join(splits)}; need {split}; give another folder, or a file")
    return rows_of(splits[split] if split in splits else next(iter(splits.values())))


def rows_of(parts: list[SplitSource]) -> list[Row]:
    """The rows of every part of a split."""
    return [row for part in parts for row in part.rows()]


def _saved(folder: Path) -> Splits:
    # Slow to import, and most runs have their data in a file.
    import datasets

    # `datasets` and pyarrow raise errors of any kind for files that are missing, damaged or of another kind.
    with library_errors(f"{folder} was saved by `datasets` but cannot be read", "need all of its files; copy it again"):
        saved = datasets.load_from_disk(str(folder))
    if isinstance(saved, datasets.Dataset):
        saved = datasets.DatasetDict({"train": saved})
    return _by_our_names(
        {str(word): [SplitSource(f"{folder} {word}", hub=part)] for word, part in saved.items()}, folder
    )


def _published(folder: Path) -> Splits:
    """The files that `datasets` finds for each split; our own reader reads them, which names a bad file and row."""
    import datasets

    try:
        found: Mapping[Any, Any] = datasets.load_dataset_builder(str(folder)).config.data_files or {}
    # A folder without data is FileNotFoundError, several configurations ValueError; README.md may hold any YAML.
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no data; need a file such as train.jsonl in it; check the path") from error
    except Exception as error:
        raise UserError(
            f"{folder} cannot be read as a data set ({one_line(error)}); need files such as train.jsonl, or a copy of "
            "one configuration of a data set of the hub; give its folder or a file"
        ) from error
    parts = {
        str(word): [SplitSource(str(file), file=Path(file)) for file in map(str, files)]
        for word, files in found.items()
    }
    return _by_our_names(parts, folder)


def _by_our_names(found: Splits, folder: Path) -> Splits:
    """Splits by the names that are used here; the only one is `train`, whatever it is called."""
    names = {word: split for split, words in SPLIT_NAMES.items() for word in words}
    known = {names[word]: parts for word, parts in found.items() if word in names}
    other = [word for word in found if word not in names]
    if not known and len(other) == 1:
        return {"train": found[other[0]]}
    if not known:
        raise UserError(
            f"{folder} has the splits {', '.join(other)}; need train, and if there are any validation and test; give "
            "the file of one of them"
        )
    if other:
        logger.warning("warning: the splits %s of %s are not used", ", ".join(other), folder)
    return known
