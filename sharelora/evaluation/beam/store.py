"""The texts found so far, kept on disk batch by batch, so that an interrupted decoding goes on where it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharelora.evaluation import store
from sharelora.evaluation.beam.search import Hypothesis

FILE = "hypotheses.jsonl"


class Store(store.Store[int, Hypothesis]):
    """The texts by the place of their input.

    Args:
        folder: where the file lies.
        settings: everything that decides which texts are found.
        overwrite: forget what is there.

    Raises:
        UserError: the file belongs to other settings, or is damaged.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        super().__init__(folder / FILE, settings, "--work_dir", overwrite)

    def _to_row(self, key: int, value: Hypothesis) -> dict[str, Any]:
        return {"input": key, "score": value.score, "predict": list(value.ids)}

    def _from_row(self, row: Any) -> tuple[int, Hypothesis]:
        return int(row["input"]), Hypothesis(tuple(row["predict"]), float(row["score"]))
