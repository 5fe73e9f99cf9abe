"""Find the splits of a data set that is known by name: files in the folder of local data, or else the hub.

Every loader describes its sets as `KnownDataset`s and asks `find_split` or `find_splits`; only what a row means is its
own. Where there is a folder of local data the hub is not asked.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharelora.data.rows import EXTENSIONS, Parsed, Row, numbered_rows, parse_rows, read_rows
from sharelora.support.errors import UserError
from sharelora.support.text import nearest, one_line

logger = logging.getLogger(__name__)

DATA_FOLDER = "SHARELORA_DATA"
# What a split may be called on the hub and in file names.
SPLIT_NAMES = {"train": ("train",), "eval": ("eval", "validation", "valid", "dev", "val"), "test": ("test",)}


@dataclass(frozen=True, kw_only=True)
class KnownDataset:
    """Where a data set that is known by name is.

    Args:
        name: what it is called here.
        hub: its place on the hub, the arguments of `datasets.load_dataset`; empty where the hub does not have it.
        files: split -> local files without extension, relative to the folder of local data; the first one counts.
        hub_splits: split -> what it may be called on the hub; the first one with rows counts.
        one_split: load a single split from the hub, by its only name: the others are large.
        extensions: what the files end with.
        folder_of: a folder instead of a file is taken too, if it has files of this pattern.
        instead: another way to say where the data is, for messages.
    """

    name: str
    hub: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, tuple[str, ...]]
    hub_splits: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: SPLIT_NAMES)
    one_split: bool = False
    extensions: tuple[str, ...] = EXTENSIONS
    folder_of: str | None = None
    instead: str = "pass --data_root /a/folder/of/data"

    @property
    def ways(self) -> str:
        """What to do where the hub does not help, for messages."""
        return f"set {DATA_FOLDER}=/a/folder/of/data, {self.instead}, or add --tiny"


@dataclass(frozen=True)
class SplitSource:
    """Where a split was found.

    Args:
        origin: the file, or the hub's name of the set and the split; for messages and results.
        file: the local file (or folder of files); None on the hub.
        hub: the split as `datasets` gives it; None for a file.
    """

    origin: str
    file: Path | None = None
    hub: Any = None

    def rows(self) -> list[Row]:
        """Read every row as a dict of its columns."""
        return read_rows(self.file) if self.file is not None else numbered_rows(self.hub.to_list(), self.origin)


def data_folder(root: str | Path | None = None) -> Path | None:
    """The folder of local data: the one given, else the environment variable SHARELORA_DATA; None where neither is."""
    folder = root or os.environ.get(DATA_FOLDER)
    folder = folder and Path(folder).expanduser()
    return Path(folder) if folder else None


def find_split(
    dataset: KnownDataset, split: str, root: str | Path | None = None, load: Callable[..., Any] | None = None
) -> SplitSource:
    """Find one split of a known data set.

    Args:
        dataset: the set.
        split: a key of its files.
        root: folder of local data, see `data_folder`; without one, the hub.
        load: replaces `datasets.load_dataset`.

    Raises:
        UserError: it is not where it was looked for; the message says where that was, and the ways out.
    """
    folder = data_folder(root)
    if folder is None:
        return _on_hub(dataset, (split,), load)[split]
    file = local_file(dataset, split, folder)
    if file is None:
        raise not_found(dataset, (split,), folder)
    return SplitSource(str(file), file=file)


def find_splits(
    dataset: KnownDataset, root: str | Path | None = None, load: Callable[..., Any] | None = None
) -> dict[str, SplitSource]:
    """Find every split of a known data set that there is; the arguments are those of `find_split`.

    Raises:
        UserError: there is none.
    """
    folder = data_folder(root)
    if folder is None:
        return _on_hub(dataset, tuple(dataset.files), load)
    files = {split: local_file(dataset, split, folder) for split in dataset.files}
    sources = {split: SplitSource(str(file), file=file) for split, file in files.items() if file is not None}
    if not sources:
        raise not_found(dataset, tuple(files), folder)
    return sources


def parse_split(
    dataset: KnownDataset,
    split: str,
    parse: Callable[[Row], Parsed],
    root: str | Path | None = None,
    needed: str = "what the other rows have",
) -> list[Parsed]:
    """Find one split and parse its rows; see `find_split` and `parse_rows`."""
    source = find_split(dataset, split, root)
    return parse_rows(source.rows(), source.origin, parse, needed)


def local_file(dataset: KnownDataset, split: str, folder: Path) -> Path | None:
    """The file of a split in a folder of local data, or None."""
    return find_file(folder, dataset.files.get(split, ()), dataset.extensions, dataset.folder_of)


def find_file(
    folder: Path, stems: Iterable[str], extensions: Iterable[str] = EXTENSIONS, folder_of: str | None = None
) -> Path | None:
    """The first file of a folder with one of these names.

    Args:
        folder: where to look.
        stems: names without extension, tried in this order.
        extensions: tried in this order for each name.
        folder_of: a folder of one of the names is taken too, if it has files of this pattern.
    """
    for stem in stems:
        for file in (folder / f"{stem}{extension}" for extension in extensions):
            if file.is_file():
                return file
        if folder_of is not None and any((folder / stem).rglob(folder_of)):
            return folder / stem
    return None


def not_found(dataset: KnownDataset, splits: Iterable[str], folder: Path, more_stems: Iterable[str] = ()) -> UserError:
    """The error that a folder has none of these splits: where it was looked, and the ways out."""
    splits = tuple(splits)
    stems = ", ".join((*(stem for split in splits for stem in dataset.files.get(split, ())), *more_stems))
    kinds = ", ".join(extension for extension in dataset.extensions if not extension.endswith(".gz"))
    folders = f" or a folder of {dataset.folder_of}" if dataset.folder_of else ""
    return UserError(
        f"no data set {dataset.name} for {', '.join(splits)} in {folder}: looked for {stems} as {kinds} (or .gz)"
        f"{folders}; put it there, {dataset.instead}, unset {DATA_FOLDER} to load it from the hub, or add --tiny"
    )


def unknown_name(name: str, known: Iterable[str], kind: str, otherwise: str, also: str = "") -> UserError:
    """The error that there is nothing of this name; it suggests the nearest one.

    Args:
        name: the unknown name.
        known: the names there are.
        kind: what they are names of, e.g. `task`.
        otherwise: what to do where no name is near.
        also: what may be given instead of a name, e.g. `a file`.
    """
    names = {word.lower(): word for word in known}
    near = nearest(name.lower(), names)
    advice = f"did you mean {names[near[0]]}?" if near else otherwise
    needed = ", ".join(names.values()) + (f", or {also}" if also else "")
    return UserError(f"found unknown {kind} {name}; need one of {needed}; {advice}")


def _on_hub(dataset: KnownDataset, splits: tuple[str, ...], load: Callable[..., Any] | None) -> dict[str, SplitSource]:
    """Those of the splits that the hub has rows for, at least one."""
    path = dataset.hub["path"]
    if dataset.one_split:
        words = {split: dataset.hub_splits[split][0] for split in splits}
        return {
            split: SplitSource(f"{path} {word}", hub=load_from_hub({**dataset.hub, "split": word}, dataset, load))
            for split, word in words.items()
        }
    loaded = load_from_hub(dataset.hub, dataset, load)
    sources = {}
    for split in splits:
        word = next((word for word in dataset.hub_splits[split] if word in loaded and len(loaded[word])), None)
        if word is not None:
            sources[split] = SplitSource(f"{path} {word}", hub=loaded[word])
    if not sources:
        raise UserError(f"data set {dataset.name} ({path}) has no rows for {', '.join(splits)}; {dataset.ways}")
    return sources


def load_from_hub(arguments: Mapping[str, Any], dataset: KnownDataset, load: Callable[..., Any] | None = None) -> Any:
    """Load a data set from the hub, or from its local cache, as `datasets` gives it.

    Args:
        arguments: the arguments of `datasets.load_dataset`.
        dataset: the set, for messages.
        load: replaces `datasets.load_dataset`.

    Raises:
        UserError: it cannot be loaded; with the true reason.
    """
    # Slow to import, and most runs have their data in a folder.
    import datasets
    from huggingface_hub.errors import HTTPError

    from sharelora.support.hub import hub_reachable

    name = f"data set {dataset.name} ({arguments['path']})"
    if load is None and not _cached(arguments["path"]) and not hub_reachable():
        raise UserError(f"{name} is not in the local cache and the hub cannot be reached; {dataset.ways}")
    logger.info("loading %s from the hub", arguments["path"])
    try:
        return (load or datasets.load_dataset)(**arguments)
    # What `datasets` and `huggingface_hub` raise for network, access, missing files, and data they cannot parse.
    except (OSError, ValueError, RuntimeError, HTTPError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{name} cannot be loaded: {_reason(error)}; {dataset.ways}") from error


def _reason(error: BaseException) -> str:
    """An error and what caused it, on one line: `datasets` often names only the step that failed."""
    own = f"{type(error).__name__}: {one_line(error)}"
    return own if error.__cause__ is None else f"{own} ({_reason(error.__cause__)})"


def _cached(path: str) -> bool:
    import datasets
    from datasets.naming import camelcase_to_snakecase

    owner, name = path.split("/")
    return (Path(datasets.config.HF_DATASETS_CACHE) / f"{owner}___{camelcase_to_snakecase(name)}").is_dir()
