"""A disk that loses its power: what is on it may lack all that was never synced, and keep any part of it.

`Disk` notes what happens in a folder: names that come and go, contents, and what was synced. `losses` then gives, for
each moment, folders that could be found when the power is back:
- a name that was given, moved or removed since its folder was last synced is as before or as after, each by itself and
  in any order; a rename takes place or does not;
- a content that was written since its file was last synced is the synced one, nothing, a half, zeros, or the new one.

This is less than what some file systems promise, and no more than what POSIX does.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# What Python says before it changes something. What other libraries write is seen at the next of these.
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate")
Names = dict[tuple[int, str], int]  # (folder, name) -> what has the name; folders and files are inode numbers
_watching: list[Disk] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _watching and event in EVENTS and not (event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR)):
        _watching[0].look()


@dataclass
class Step:
    """One thing that happened.

    Attributes:
        kind: `names`, `content`, `sync`, or `promise`: something that must never be lost from now on.
        names: those that changed; None is no name.
        inode: of what was written or synced.
        content: of it.
        promise: what.
    """

    kind: str
    names: dict[tuple[int, str], int | None] = field(default_factory=dict)
    inode: int = 0
    content: bytes = b""
    promise: Any = None


class Disk:
    """Notes everything that happens in a folder, from `watched` on.

    Attributes:
        steps: what happened, in order.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.steps = root, list[Step]()
        self._open: dict[int, int] = {}  # inode -> descriptor: while one is open, its number means nothing else
        self._looking = False
        self.folders: set[int] = set()
        self._names, self._contents = self._read()
        self.first_names, self.first_contents = self._names, self._contents

    def _read(self) -> tuple[Names, dict[int, bytes]]:
        names: Names = {}
        contents: dict[int, bytes] = {}
        self.folders.add(self.root.stat().st_ino)
        for place, folders, files in os.walk(self.root):
            here = os.stat(place).st_ino
            for name in (*folders, *files):
                path = Path(place, name)
                inode = path.stat().st_ino
                if inode not in self._open:
                    self._open[inode] = os.open(path, os.O_RDONLY)
                names[here, name] = inode
                if name in folders:
                    self.folders.add(inode)
                else:
                    contents[inode] = path.read_bytes()
        return names, contents

    def look(self) -> None:
        """Note what has changed since the last look."""
        if self._looking:
            return
        self._looking = True
        names, contents = self._read()
        changed = {
            key: names.get(key) for key in self._names.keys() | names.keys() if names.get(key) != self._names.get(key)
        }
        if changed:
            self.steps.append(Step("names", names=changed))
        for inode, content in contents.items():
            if content != self._contents.get(inode, b""):
                self.steps.append(Step("content", inode=inode, content=content))
        self._names, self._contents = names, {**self._contents, **contents}
        self._looking = False

    def promise(self, what: Any) -> None:
        """From now on this must never be lost."""
        self.look()
        self.steps.append(Step("promise", promise=what))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note what happens in the block."""
        fsync = os.fsync

        def noted(descriptor: int) -> None:
            self.look()
            fsync(descriptor)
            self.steps.append(Step("sync", inode=os.fstat(descriptor).st_ino))

        if _hook not in _hooked:
            sys.addaudithook(_hook)
            _hooked.append(_hook)
        _watching.append(self)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, "fsync", noted)
                yield
                self.look()
        finally:
            _watching.clear()
            for descriptor in self._open.values():
                os.close(descriptor)


_hooked: list[Any] = []


@dataclass(frozen=True)
class Loss:
    """What could be found.

    Attributes:
        moment: how many steps had been taken.
        promise: what must not be lost by then; None if nothing was promised yet.
        names: of everything.
        contents: of files.
    """

    moment: int
    promise: Any
    names: Names
    contents: dict[int, bytes]


def losses(disk: Disk, draws: int, seed: int = 0) -> Iterator[Loss]:
    """Give what could be found after each step, each state once.

    Args:
        disk: what happened.
        draws: random states for each step, besides those in which nothing, only every name, or all is kept.
        seed: of these.
    """
    draw, seen = random.Random(seed), set[Any]()
    for moment in range(len(disk.steps) + 1):
        for number in range(3 + draws):
            kept = (0.0, 1.0, 1.0)[number] if number < 3 else 0.5
            loss = _lose(disk, moment, draw, names=kept, contents=(0.0, 0.0, 1.0, 0.5)[min(number, 3)])
            key = (repr(loss.promise), tuple(sorted(loss.names.items())), tuple(sorted(loss.contents.items())))
            if key not in seen:
                seen.add(key)
                yield loss


def _lose(disk: Disk, moment: int, draw: random.Random, names: float, contents: float) -> Loss:
    """Give one state: names and contents that were not synced are kept with these probabilities."""
    steps, promise = disk.steps[:moment], None
    synced_at: dict[int, int] = {}  # inode -> the last step at which it was synced
    for index, step in enumerate(steps):
        if step.kind == "sync":
            synced_at[step.inode] = index
        promise = step.promise if step.kind == "promise" else promise
    found = dict(disk.first_names)
    for index, step in enumerate(steps):
        safe = all(synced_at.get(folder, -1) > index for folder, _ in step.names)
        if step.kind == "names" and (safe or draw.random() < names):
            for key, inode in step.names.items():
                if inode is None:
                    found.pop(key, None)
                else:
                    found[key] = inode
    held = dict(disk.first_contents)
    newest: dict[int, bytes] = {}
    for index, step in enumerate(steps):
        if step.kind == "content":
            if synced_at.get(step.inode, -1) > index:
                held[step.inode] = step.content
            else:
                newest[step.inode] = step.content
    for inode, content in newest.items():
        if contents == 1.0:
            held[inode] = content
        elif contents and draw.random() < contents:
            held[inode] = draw.choice([b"", content[: len(content) // 2], bytes(len(content)), content])
    return Loss(moment, promise, found, held)


def restore(disk: Disk, loss: Loss, place: Path) -> None:
    """Make a folder of what was found; two names of one file stay two names of one file."""
    made: dict[int, Path] = {}

    def fill(folder: int, path: Path, above: tuple[int, ...]) -> None:
        for (parent, name), inode in loss.names.items():
            target = path / name
            if parent != folder:
                continue
            if inode in disk.folders:
                if inode not in above:
                    target.mkdir()
                    fill(inode, target, (*above, inode))
            elif inode in made:
                os.link(made[inode], target)
            else:
                target.write_bytes(loss.contents.get(inode, b""))
                made[inode] = target

    fill(disk.root.stat().st_ino, place, ())
