"""Weights of an adapter's file under the paths that its modules have in the model it is loaded into."""

from __future__ import annotations

from typing import Any

from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor

from sharelora.plan.renamed import rename
from sharelora.support.errors import UserError

PREFIX = "base_model.model."


def present_names(tuner: Any, state: dict[str, Tensor], adapter: str) -> dict[str, Tensor]:
    """Return the tensors of a file under names of this model: DoRA's magnitudes, biases and heads.

    Args:
        tuner: the adapted model.
        state: name in the file -> tensor.
        adapter: name of the adapter.

    Raises:
        UserError: a name that two modules could have.
    """
    now_at = tuner.now_at.get(adapter) or {}
    if all(old == new for old, new in now_at.items()):
        return state
    heads = [path for path, module in tuner.model.named_modules() if isinstance(module, AuxiliaryTrainingWrapper)]
    renamed = {}
    for name, tensor in state.items():
        path = name.removeprefix(PREFIX)
        now = rename(path, now_at, heads) if path != name else path
        if now is None:
            raise UserError(
                f"{path} of the adapter's file could belong to several modules of this model; need one; load the "
                "adapter's own base model"
            )
        renamed[name.removesuffix(path) + now] = tensor
    return renamed
