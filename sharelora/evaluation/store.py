"""What a long evaluation has found so far, kept on disk piece by piece, so that after a kill it goes on from there."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from sharelora.support.errors import UserError
from sharelora.support.files import write_text

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Store(ABC, Generic[Key, Value]):
    """A file with the settings in its first line and then one line for each thing that was found.

    Attributes:
        found: everything that is there.

    Args:
        path: the file.
        settings: everything that decides what is found.
        folder_flag: the flag that names the file's folder, for messages.
        overwrite: forget what is there.

    Raises:
        UserError: the file belongs to other settings, is damaged, or cannot be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], folder_flag: str, overwrite: bool = False) -> None:
        self.path, self.folder_flag = path, folder_flag
        self.head = json.dumps({"settings": settings}, ensure_ascii=False)
        self.found: dict[Key, Value] = {}
        if self.path.is_file() and not overwrite:
            self._read()
        else:
            write_text(self.path, self.head + "\n")

    @abstractmethod
    def _to_row(self, key: Key, value: Value) -> dict[str, Any]:
        """What stands in a line."""

    @abstractmethod
    def _from_row(self, row: Any) -> tuple[Key, Value]:
        """The opposite; raises ValueError, KeyError or TypeError where a line is something else."""

    def _read(self) -> None:
        try:
            text = self.path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged(error, 1) from error
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
            before, now = (dict(json.loads(line)["settings"]) for line in (head, self.head))
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(error, 1) from error
        changed = [name for name in now if before.get(name) != now[name]]
        if changed:
            name = changed[0]
            raise UserError(
                f"{self.path} was made with {name} {before.get(name)}, this run has {now[name]}; choose another "
                f"{self.folder_flag}, or --overwrite to start anew"
            )

    def _take(self, line: str, number: int) -> None:
        try:
            key, value = self._from_row(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(error, number) from error
        self.found[key] = value

    def _damaged(self, error: Exception, number: int) -> UserError:
        return UserError(f"{self.path} is damaged ({error} in line {number}); --overwrite starts anew")

    def add(self, new: Mapping[Key, Value]) -> None:
        """Keep what was found; it is on disk when this returns.

        Raises:
            UserError: the disk is full or gone.
        """
        self.found.update(new)
        lines = [json.dumps(self._to_row(key, value), ensure_ascii=False) + "\n" for key, value in new.items()]
        try:
            with open(self.path, "a", encoding="utf-8") as handle:
                handle.write("".join(lines))
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; free space, then start again") from error
