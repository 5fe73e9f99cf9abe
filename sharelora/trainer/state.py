"""The state of a run as one safetensors file: tensors as they are, everything around them as JSON in its header.

Optimizers, schedules and random generators keep nested containers, which are usually pickled, and a pickle can run code
when it is loaded. These files hold numbers, text and tensors, and nothing else can be read out of them.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import set_seed

from sharelora.support.errors import UserError

_HEADER = "state"
_PLAIN = (bool, int, float, str, type(None))


def save_state(file: Path, state: Any) -> None:
    """Write nested dicts, lists and tuples of tensors, numpy arrays, numbers and text; all of it comes back bit by bit.

    Raises:
        UserError: there is something else in it.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_pack(state, tensors))
    # One entry alone: several stand in the header in any order, and equal states would be different files.
    save_file(tensors, file, metadata={_HEADER: text})


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, np.ndarray):
        return {"array": [str(value.dtype), value.tolist()]}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {"dict": [[_pack(key, tensors), _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"tuple" if isinstance(value, tuple) else "list": [_pack(item, tensors) for item in value]}
    if type(value) in _PLAIN:
        return value
    raise UserError(
        f"found {type(value).__name__} in the state of this run; need numbers, text and tensors: anything else "
        "could run code when it is loaded; choose another --optim or --lr_scheduler_type"
    )


def load_state(file: Path, needed: Collection[str] = ()) -> Any:
    """Read what `save_state` wrote; tensors are on the CPU.

    Args:
        file: where it is.
        needed: names that the outermost dict must have.

    Raises:
        UserError: the file is missing, damaged or of another kind, or lacks a name.
    """
    try:
        with safe_open(file, framework="pt") as handle:
            text = (handle.metadata() or {})[_HEADER]
            found = _unpack(json.loads(text), handle)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{file} cannot be read ({error!r}); need the whole state of a run; use another checkpoint"
        ) from error
    lacking = set(needed) - set(found if isinstance(found, dict) else ())
    if lacking:
        raise UserError(
            f"{file} lacks {', '.join(sorted(lacking))}; need the whole state of a run, as this version writes it; "
            "use another checkpoint, or --overwrite_output_dir to start anew"
        )
    return found


def _unpack(value: Any, handle: Any) -> Any:
    if not isinstance(value, dict):
        return value
    (kind, content), *more = value.items()
    if more:
        raise ValueError("more than one kind")
    if kind == "tensor":
        return handle.get_tensor(content)
    if kind == "array":
        return np.array(content[1], dtype=np.dtype(content[0]))
    if kind == "dict":
        return {_unpack(key, handle): _unpack(item, handle) for key, item in content}
    return {"list": list, "tuple": tuple}[kind](_unpack(item, handle) for item in content)


# The random generators that training draws from, taken and put back.


Random = dict[str, Any]


def random_state() -> Random:
    """Return the state of every generator of this process: Python, numpy, torch, and each GPU that it may use."""
    # One process may spread a model over several GPUs, each of which draws its own dropout.
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: Random) -> None:
    """Put every generator into a state that `random_state` returned; GPUs that are not there any more are left out."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for device, cuda in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(cuda, device)


def derive_random_state(seed: int, step: int, rank: int) -> None:
    """Seed every generator with a number of this process's own, which is the same whenever it is asked for.

    Args:
        seed: of the run.
        step: updates so far.
        rank: of this process.
    """
    set_seed(int.from_bytes(hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()[:4], "big"))
