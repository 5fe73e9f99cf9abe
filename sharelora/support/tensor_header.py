"""Names, dtypes and shapes of a safetensors file, from its header, and a fingerprint of a few bytes of each tensor."""

from __future__ import annotations

import hashlib
import math
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sharelora.support.errors import UserError
from sharelora.support.reading import NAME, misfit, open_file, parse_json

# The format's own limit of a header.
MOST_BYTES = 100_000_000
_MOST_DIMENSIONS = 32
# Bits of an element.
FLOATS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16}
WHOLE = {"I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8}
_SMALL = {f"F8_{kind}": 8 for kind in ("E4M3", "E5M2", "E8M0", "E4M3FNUZ", "E5M2FNUZ")}
_BITS = {**FLOATS, **WHOLE, **_SMALL, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
_TENSOR = {"dtype": NAME, "shape": [range(1 << 48)], "data_offsets": [range(1 << 63)]}

_BLOCK = 1024  # bytes, three times of each tensor


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        dtype: in the format's words, such as `BF16`.
        shape: its sizes.
        bytes: where the file has it.
    """

    dtype: str
    shape: tuple[int, ...]
    bytes: range


def read_header(path: str | Path) -> dict[str, Stored]:
    """Return what a safetensors file holds: name -> tensor.

    Args:
        path: a safetensors file: 8 bytes of header length, the header as JSON, the tensors' bytes.

    Raises:
        UserError: the file is missing, or not what its header says.
    """
    with open_file(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        prefix = handle.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        try:
            if not 0 < length <= min(size - 8, MOST_BYTES):
                raise ValueError("its header has no such length")
            return _stored(parse_json(handle.read(length).decode()), 8 + length, size)
        except (ValueError, OSError) as error:
            raise UserError(
                f"{path} is not a complete safetensors file ({str(error)[:200]}); it was truncated, altered or is of "
                "another kind; copy it again"
            ) from error


def _stored(header: object, start: int, size: int) -> dict[str, Stored]:
    """Check a header.

    Args:
        header: as it was read.
        start: where the tensors begin.
        size: bytes of the file.

    Raises:
        ValueError: what is wrong with it.
    """
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    tensors = {name: facts for name, facts in header.items() if name != "__metadata__"}
    if fault := misfit(header.get("__metadata__", {}), {...: str}, "__metadata__") or misfit(tensors, {...: _TENSOR}):
        raise ValueError(fault)
    end = 0
    for name, facts in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, span = facts["dtype"], facts["shape"], facts["data_offsets"]
        if dtype not in _BITS or len(shape) > _MOST_DIMENSIONS:
            raise ValueError(f"{name[:60]} is {dtype[:20]} of {len(shape)} dimensions")
        if len(span) != 2 or span[0] != end or 8 * (span[1] - end) != math.prod(shape) * _BITS[dtype]:
            raise ValueError(f"{name[:60]} is not where it should be")
        end = span[1]
    if start + end != size:
        raise ValueError(f"it has {size:,} bytes, {start + end:,} are needed")
    found = {}
    for name, facts in tensors.items():
        first, last = facts["data_offsets"]
        found[name] = Stored(facts["dtype"], tuple(facts["shape"]), range(start + first, start + last))
    return found


def tensor_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Return every tensor's shape: name -> shape.

    Raises:
        UserError: see `read_header`.
    """
    return {name: stored.shape for name, stored in read_header(path).items()}


def sampled_digest(paths: Iterable[Path]) -> str:
    """Return a fingerprint of the weights in safetensors files that is cheap for any size.

    It is over every tensor's name, type and shape, and over its first, middle and last bytes; not over which file it is
    in. So it tells models apart whose training went through all of a tensor, and not every change of a single number.

    Args:
        paths: all files of a model.

    Raises:
        UserError: see `read_header`.
    """
    found: list[tuple[str, bytes]] = []
    for path in paths:
        header = read_header(path)
        with open_file(path) as handle:
            for name, stored in header.items():
                first, end = stored.bytes.start, stored.bytes.stop
                last = max(first, end - _BLOCK)
                digest = hashlib.sha256(f"{name} {stored.dtype} {list(stored.shape)}".encode())
                for offset in (first, (first + last) // 2, last):
                    handle.seek(offset)
                    digest.update(handle.read(min(_BLOCK, end - offset)))
                found.append((name, digest.digest()))
    return hashlib.sha256(b"".join(digest for _, digest in sorted(found))).hexdigest()
