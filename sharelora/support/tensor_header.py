"""Names and shapes of a safetensors file, from its header: no weights are read, nothing is imported."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from sharelora.support.errors import UserError


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is not a complete safetensors file; it was truncated, altered or is of another kind")


def tensor_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Return every tensor's shape: name -> shape.

    Args:
        path: a safetensors file: 8 bytes of header length, the header as JSON, the tensors' bytes.

    Raises:
        UserError: the file is missing, or shorter or longer than its header says.
    """
    path = Path(path)
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
    return {name: tuple(facts["shape"]) for name, facts in tensors.items()}
