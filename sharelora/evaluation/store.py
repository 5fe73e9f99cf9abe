"""Results of a long evaluation, on disk as they come, so that a run that was killed continues where it stopped."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from sharelora.support.errors import UserError
from sharelora.support.files import write_text
from sharelora.support.reading import Shape, misfit, parse_json, read_bytes
from sharelora.support.secrets import hidden

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class Store(ABC, Generic[Key, Result]):
    """A file of JSON lines: the settings in the first, then one result a line.

    Attributes:
        shape: what a line has to be, see `sharelora.support.reading`.
        results: key -> result, of earlier runs too.
        begun: whether the file is there and belongs to these settings.

    Args:
        path: the file.
        settings: everything that decides the results.
        folder_flag: the flag that names the file's folder, for messages.
        overwrite: discard results that are there.

    Raises:
        UserError: the file belongs to other settings, is damaged, or cannot be written.
    """

    shape: ClassVar[Shape] = dict

    def __init__(self, path: Path, settings: Mapping[str, Any], folder_flag: str, overwrite: bool = False) -> None:
        self.path, self.folder_flag = path, folder_flag
        self.head = json.dumps({"settings": hidden(settings)}, ensure_ascii=False)
        self.results: dict[Key, Result] = {}
        # A run that is refused before its first result leaves no file.
        self.begun = self.path.is_file() and not overwrite
        if self.begun:
            self._read()

    @abstractmethod
    def _to_row(self, key: Key, result: Result) -> dict[str, Any]:
        """Return a line as JSON data."""

    @abstractmethod
    def _from_row(self, row: Any) -> tuple[Key, Result]:
        """Read a line's JSON data, which has the shape."""

    def _read(self) -> None:
        try:
            text = read_bytes(self.path).decode()
        except UnicodeDecodeError as error:
            raise self._damaged(error, 1) from error
        # A run that was killed while writing leaves a line without its end: that result is computed again.
        whole, _, rest = text.rpartition("\n")
        head, *lines = whole.split("\n")
        self._check(head)
        for number, line in enumerate(lines, 2):
            self._take(line, number)
        if rest:
            write_text(self.path, whole + "\n")

    def _check(self, head: str) -> None:
        before, now = (self._parsed(line, {"settings": dict}, 1)["settings"] for line in (head, self.head))
        changed = [name for name in {**now, **before} if before.get(name) != now.get(name)]
        if changed:
            name = changed[0]
            raise UserError(
                f"{self.path} was made with {name} {before.get(name)}, this run has {now.get(name)}; choose another "
                f"{self.folder_flag}, or --overwrite to start again"
            )

    def _take(self, line: str, number: int) -> None:
        key, result = self._from_row(self._parsed(line, self.shape, number))
        self.results[key] = result

    def _parsed(self, line: str, shape: Shape, number: int) -> Any:
        try:
            value = parse_json(line)
        except ValueError as error:
            raise self._damaged(error, number) from error
        if fault := misfit(value, shape):
            raise self._damaged(fault, number)
        return value

    def _damaged(self, fault: object, number: int) -> UserError:
        return UserError(f"{self.path} is damaged ({fault} in line {number}); --overwrite starts again")

    def add(self, new: Mapping[Key, Result]) -> None:
        """Keep results; they are on disk when this returns.

        Raises:
            UserError: the disk is full or gone.
        """
        if not self.begun:
            write_text(self.path, self.head + "\n")
            self.begun = True
        self.results.update(new)
        rows = hidden([self._to_row(key, result) for key, result in new.items()])
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        try:
            with open(self.path, "a", encoding="utf-8") as handle:
                handle.write("".join(lines))
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; free space, then start again") from error
