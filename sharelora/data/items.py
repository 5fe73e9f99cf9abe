"""The items of a test by its name: from a local folder or the hub, a malformed one named by its file and row."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sharelora.data.hub import load_from_hub
from sharelora.data.readers import EXTENSIONS, BadCell, Row, read_rows
from sharelora.data.registry import DATA_FOLDER, SPLIT_NAMES, known
from sharelora.support.errors import UserError

Item = TypeVar("Item")
_WAYS = f"set {DATA_FOLDER}=/a/folder/of/data, pass --data_root, or add --tiny"


def load_items(name: str, split: str, parse: Callable[[Row], Item], root: str | Path | None = None) -> list[Item]:
    """Load one split of a data set that is known by name.

    Args:
        name: of `sharelora.data.registry.KNOWN`.
        split: `train`, `eval` or `test`.
        parse: row -> item; raises BadCell where a row is malformed.
        root: folder of local data; None takes the environment variable SHARELORA_DATA. Where there is one, the hub is
            not asked.

    Raises:
        UserError: no such data, or a malformed row.
    """
    rows, origin = _rows(name, split, root or os.environ.get(DATA_FOLDER))
    return parse_rows(rows, origin, parse)


def parse_rows(rows: list[Row], origin: str, parse: Callable[[Row], Item]) -> list[Item]:
    """Parse rows one by one.

    Args:
        rows: at least one.
        origin: where they are from, for messages.
        parse: see `load_items`.

    Raises:
        UserError: the first malformed row.
    """
    items = []
    for number, row in enumerate(rows, 1):
        try:
            items.append(parse(row))
        except BadCell as error:
            raise UserError(f"{origin}, row {number}: {error}; need what the other rows have; repair it") from error
    return items


def _rows(name: str, split: str, root: str | Path | None) -> tuple[list[Row], str]:
    entry, words = known(name), SPLIT_NAMES[split]
    if root is None:
        found = load_from_hub(entry.hub, name, _WAYS)
        word = next((word for word in words if word in found and len(found[word])), None)
        if word is None:
            raise UserError(f"data set {name} ({entry.hub['path']}) has no {split} split; {_WAYS}")
        return found[word].to_list(), f"{entry.hub['path']} {word}"
    stems = [*entry.local.get(split, ()), *(f"{name}/{word}" for word in words)]
    files = (Path(root) / (stem + ending) for stem in stems for ending in EXTENSIONS)
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        looked = ", ".join(f"{stem}.jsonl" for stem in stems)
        raise UserError(
            f"no {name} {split} split in {root}; need one of {looked} there (or .json, .gz); check {DATA_FOLDER} or "
            "--data_root, or unset both to load it from the hub"
        )
    return read_rows(file), str(file)
