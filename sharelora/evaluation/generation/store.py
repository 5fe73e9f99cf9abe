"""The texts generated so far, on disk as they end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharelora.evaluation import store
from sharelora.evaluation.generation.settings import Generated, Key

FILE = "generations.jsonl"
_ENDED = ("eos", "stop", "length")


class TextStore(store.Store[Key, Generated]):
    """Texts by the place of their prompt and the number of the sample.

    Args:
        folder: where the file lies.
        settings: everything that decides which texts are generated.
        overwrite: forget what is there.

    Raises:
        UserError: the file belongs to other settings, is damaged, or cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        super().__init__(folder / FILE, settings, "--output", overwrite)

    def _to_row(self, key: Key, value: Generated) -> dict[str, Any]:
        return {"prompt": key[0], "sample": key[1], **vars(value)}

    def _from_row(self, row: Any) -> tuple[Key, Generated]:
        if not isinstance(row["text"], str) or row["ended"] not in _ENDED:
            raise ValueError("no text, or no end")
        found = Generated(row["text"], int(row["tokens"]), row["ended"], float(row["seconds"]))
        return (int(row["prompt"]), int(row["sample"])), found
