"""The tensors of safetensors files, whose headers are checked first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from sharelora.support.reading import library_errors
from sharelora.support.tensor_header import read_header


@contextmanager
def open_tensors(path: str | Path) -> Iterator[Any]:
    """Open a safetensors file, of which single tensors are then read.

    Raises:
        UserError: it is missing or damaged; also of what the block reads from it.
    """
    read_header(path)
    with library_errors(f"{path} cannot be read", "need a complete safetensors file; copy it again"):
        with safe_open(path, framework="pt") as handle:
            yield handle


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file whole, on the CPU.

    Raises:
        UserError: it is missing or damaged.
    """
    with open_tensors(path) as handle:
        return {name: handle.get_tensor(name) for name in handle.keys()}
