"""Load a data set that is known by name from the hub, or say why not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HTTPError

from sharelora.data.readers import Row
from sharelora.data.registry import DATA_FOLDER, SPLIT_NAMES, KnownData
from sharelora.support.errors import UserError
from sharelora.support.hub import hub_reachable

logger = logging.getLogger(__name__)

WAYS = f"set {DATA_FOLDER}=/a/folder/of/data, pass --dataset /path/to/a/file, or add --tiny"


def from_hub(entry: KnownData, name: str, load: Callable[..., Any] | None = None) -> dict[str, list[Row]]:
    """Read every split of a data set from the hub, or from its local cache.

    Args:
        entry: where it is.
        name: its name here, for messages.
        load: replaces `datasets.load_dataset`.

    Raises:
        UserError: it cannot be loaded; with the true reason.
    """
    found = load_from_hub(entry.hub, name, WAYS, load)
    splits = {}
    for split, words in SPLIT_NAMES.items():
        word = next((word for word in words if word in found), None)
        if word is not None and len(found[word]):
            splits[split] = found[word].to_list()
    if not splits:
        raise UserError(f"data set {name} ({entry.hub['path']}) has no rows in train, validation or test; {WAYS}")
    return splits


def load_from_hub(asked: Mapping[str, Any], name: str, ways: str, load: Callable[..., Any] | None = None) -> Any:
    """Load a data set from the hub, or from its local cache, as `datasets` gives it: split name -> split.

    Args:
        asked: the arguments of `datasets.load_dataset`.
        name: its name here, for messages.
        ways: what to do where it cannot be loaded, for messages.
        load: replaces `datasets.load_dataset`.

    Raises:
        UserError: it cannot be loaded; with the true reason.
    """
    import datasets

    path = asked["path"]
    if load is None and not _cached(path) and not hub_reachable():
        raise UserError(f"data set {name} ({path}) is not in the local cache and the hub cannot be reached; {ways}")
    logger.info("loading %s from the hub", path)
    try:
        return (load or datasets.load_dataset)(**asked)
    # What `datasets` and `huggingface_hub` raise for network, access, missing files, and data they cannot parse.
    except (OSError, ValueError, RuntimeError, HTTPError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"data set {name} ({path}) cannot be loaded: {_reason(error)}; {ways}") from error


def _reason(error: BaseException) -> str:
    """An error and what caused it, on one line: `datasets` often names only the step that failed."""
    own = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return own if error.__cause__ is None else f"{own} ({_reason(error.__cause__)})"


def _cached(path: str) -> bool:
    import datasets
    from datasets.naming import camelcase_to_snakecase

    owner, name = path.split("/")
    return (Path(datasets.config.HF_DATASETS_CACHE) / f"{owner}___{camelcase_to_snakecase(name)}").is_dir()
