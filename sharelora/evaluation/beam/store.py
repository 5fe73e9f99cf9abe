"""The texts found so far, kept on disk batch by batch, so that an interrupted decoding goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharelora.errors import UserError
from sharelora.evaluation.beam.search import Hypothesis
from sharelora.files import write_text

FILE = "hypotheses.jsonl"


class Store:
    """A file with the settings in its first line and then one line per input that is done.

    Args:
        folder: where it lies.
        settings: everything that decides which texts are found.
        overwrite: forget what is there.

    Raises:
        UserError: the file belongs to other settings, or is damaged.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        self.path = folder / FILE
        self.head = json.dumps({"settings": settings}, ensure_ascii=False)
        self.found: dict[int, Hypothesis] = {}
        if self.path.is_file() and not overwrite:
            self._read()
        else:
            write_text(self.path, self.head + "\n")

    def _read(self) -> None:
        text = self.path.read_text(encoding="utf-8")
        # Whoever was interrupted while writing left a line without its end.
        whole, _, rest = text.rpartition("\n")
        head, *lines = whole.split("\n")
        self._check(head)
        for number, line in enumerate(lines, 2):
            self._take(line, number)
        if rest:
            write_text(self.path, whole + "\n")

    def _check(self, head: str) -> None:
        try:
            before, now = json.loads(head)["settings"], json.loads(self.head)["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path} is damaged ({error} in line 1); --overwrite starts anew") from error
        changed = [name for name in now if before.get(name) != now[name]]
        if changed:
            name = changed[0]
            raise UserError(
                f"{self.path} holds texts decoded with {name} {before.get(name)}, this run has {now[name]}; choose "
                "another --work_dir, or --overwrite to start anew"
            )

    def _take(self, line: str, number: int) -> None:
        try:
            row = json.loads(line)
            self.found[int(row["input"])] = Hypothesis(tuple(row["predict"]), float(row["score"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path} is damaged ({error} in line {number}); --overwrite starts anew") from error

    def add(self, new: Mapping[int, Hypothesis]) -> None:
        """Keep texts.

        Args:
            new: place of the input -> its text.
        """
        self.found.update(new)
        rows = [{"input": place, "score": text.score, "predict": list(text.ids)} for place, text in new.items()]
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write("".join(json.dumps(row) + "\n" for row in rows))
            handle.flush()
            os.fsync(handle.fileno())
