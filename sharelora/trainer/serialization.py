"""The files of a run's state and weights: safetensors, and JSON in its header for what is around the tensors.

Optimizers, schedules and random generators keep nested containers, which are usually pickled, and a pickle can run code
when it is loaded. These files hold numbers, text and tensors, and nothing else can be read out of them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor

from sharelora.models.tensors import open_tensors
from sharelora.support.errors import UserError
from sharelora.support.reading import parse_json
from sharelora.tuner.finite import require_finite

_HEADER = "state"
NOT_SAVED = (
    "nothing of them is saved, and earlier checkpoints stay; lower --learning_rate or raise --adam_epsilon, and start "
    "again with --resume_anyway, which goes on from the last checkpoint"
)
_PLAIN = (bool, int, float, str, type(None))


def save_state(file: Path, state: Any) -> None:
    """Write nested dicts, lists and tuples of tensors, numpy arrays, numbers and text; all of it comes back bit by bit.

    Raises:
        UserError: there is something else in it.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_to_json(state, tensors))
    # A single entry: the header keeps several in any order, and equal states would be different files.
    save_file(tensors, file, metadata={_HEADER: text})


def _to_json(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, np.ndarray):
        return {"array": [str(value.dtype), value.tolist()]}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        # Pairs, because keys may be numbers, and JSON would turn them into text.
        return {"dict": [[_to_json(key, tensors), _to_json(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"tuple" if isinstance(value, tuple) else "list": [_to_json(item, tensors) for item in value]}
    if type(value) in _PLAIN:
        return value
    raise UserError(
        f"found {type(value).__name__} in the state of this run; need numbers, text and tensors: anything else "
        "could run code when it is loaded; choose another --optim or --lr_scheduler_type"
    )


def load_state(file: Path, needed: Collection[str] = ()) -> Any:
    """Read what `save_state` wrote; tensors are on the CPU.

    Args:
        file: to read.
        needed: names that the outermost dict must have.

    Raises:
        UserError: the file is missing, damaged or of another kind, or lacks a name.
    """
    with open_tensors(file) as handle:
        text = (handle.metadata() or {}).get(_HEADER, "")
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}
    try:
        state = _from_json(parse_json(text), tensors)
    except (LookupError, ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"{file} cannot be read ({error!r}); need the whole state of a run; use another checkpoint"
        ) from error
    lacking = set(needed) - set(state if isinstance(state, dict) else ())
    if lacking:
        raise UserError(
            f"{file} lacks {', '.join(sorted(lacking))}; need the whole state of a run, as this version writes it; "
            "use another checkpoint, or --overwrite_output_dir to start afresh"
        )
    return state


def _from_json(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    (kind, content), *more = value.items()
    if more:
        raise ValueError("more than one kind")
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        dtype = np.dtype(content[0])
        if dtype.kind not in "biuf":
            raise ValueError(f"an array of {dtype}")
        return np.array(content[1], dtype=dtype)
    if kind == "dict":
        return {_from_json(key, tensors): _from_json(item, tensors) for key, item in content}
    return {"list": list, "tuple": tuple}[kind](_from_json(item, tensors) for item in content)


def save_weights(model: Any, folder: Path, state_dict: dict[str, Any] | None = None) -> None:
    """Write an adapter, each of its matrices once, or a whole model; no tokenizer, no pickled arguments.

    Args:
        model: a PEFT model or a plain one.
        folder: where it goes.
        state_dict: the gathered weights of a sharded model.

    Raises:
        UserError: what was trained has NaN or infinite numbers.
    """
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    require_finite(trained if state_dict is None else state_dict, "the trained weights", NOT_SAVED)
    if isinstance(model, PeftModel):
        # The base's embeddings never change here, so PEFT need not ask the hub for the size of the original ones.
        model.save_pretrained(str(folder), state_dict=state_dict, save_embedding_layers=False)
    else:
        model.save_pretrained(str(folder), state_dict=state_dict)
