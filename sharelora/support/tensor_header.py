"""Names and shapes of a safetensors file, from its header, and a fingerprint of a few bytes of each tensor."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sharelora.support.errors import UserError

_BLOCK = 1024  # bytes, three times of each tensor


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is not a complete safetensors file; it was truncated, altered or is of another kind")


def tensor_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Return every tensor's shape: name -> shape.

    Args:
        path: a safetensors file: 8 bytes of header length, the header as JSON, the tensors' bytes.

    Raises:
        UserError: the file is missing, or shorter or longer than its header says.
    """
    return {name: tuple(facts["shape"]) for name, facts in _header(Path(path))[1].items()}


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Return where the tensors' bytes begin, and what the header says of each; see `tensor_shapes`."""
    try:
        with open(path, "rb") as handle:
            prefix = handle.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            header = json.loads(handle.read(length)) if 0 < length <= path.stat().st_size else None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    except ValueError as error:
        raise _damaged(path) from error
    if not isinstance(header, dict):
        raise _damaged(path)
    tensors = {name: facts for name, facts in header.items() if name != "__metadata__"}
    end = max((facts["data_offsets"][1] for facts in tensors.values()), default=0)
    if path.stat().st_size != 8 + length + end:
        raise _damaged(path)
    return 8 + length, tensors


def sampled_digest(paths: Iterable[Path]) -> str:
    """Return a fingerprint of the weights in safetensors files that is cheap for any size.

    It is over every tensor's name, type and shape, and over its first, middle and last bytes; not over which file it is
    in. So it tells models apart whose training went through all of a tensor, and not every change of a single number.

    Args:
        paths: all files of a model.

    Raises:
        UserError: see `tensor_shapes`.
    """
    found: list[tuple[str, bytes]] = []
    for path in paths:
        start, tensors = _header(path)
        with open(path, "rb", buffering=0) as handle:
            for name, facts in tensors.items():
                first, end = facts["data_offsets"]
                last = max(first, end - _BLOCK)
                digest = hashlib.sha256(f"{name} {facts['dtype']} {facts['shape']}".encode())
                for offset in (first, (first + last) // 2, last):
                    handle.seek(start + offset)
                    digest.update(handle.read(min(_BLOCK, end - offset)))
                found.append((name, digest.digest()))
    return hashlib.sha256(b"".join(digest for _, digest in sorted(found))).hexdigest()
