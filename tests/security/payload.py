"""A pickle that leaves a file behind when anything opens it."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import torch


class Payload:
    """Makes a folder as soon as it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (str(self.mark),)


def pickled(mark: Path) -> bytes:
    """The payload as a plain pickle."""
    return pickle.dumps(Payload(mark))


def saved(mark: Path) -> bytes:
    """The payload as torch.save writes it."""
    file = io.BytesIO()
    torch.save({"state": Payload(mark)}, file)
    return file.getvalue()
