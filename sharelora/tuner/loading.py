"""An adapter's file under the paths that its modules have in the model it is loaded into: its weights and settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from peft.utils.other import AuxiliaryTrainingWrapper, get_pattern_key
from torch import Tensor

from sharelora.plan.plan import SharingPlan
from sharelora.plan.renamed import rename
from sharelora.support.errors import UserError

PREFIX = "base_model.model."
# Settings of single modules, which may name them by their whole paths.
_PATTERNS = ("rank_pattern", "alpha_pattern")


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
    heads = [path for path, module in tuner.model.named_modules() if isinstance(module, AuxiliaryTrainingWrapper)]
    return present_state(state, PREFIX, now_at, heads)


def present_state(
    state: dict[str, Tensor], prefix: str, now_at: Mapping[str, str], heads: Collection[str]
) -> dict[str, Tensor]:
    """Return the tensors of a file under present names.

    Args:
        state: name in the file -> tensor.
        prefix: of names that belong to modules of the base.
        now_at: path of an adapted module in the file -> its path now.
        heads: paths of further modules that have saved parameters.

    Raises:
        UserError: a name that two modules could have.
    """
    if all(old == new for old, new in now_at.items()):
        return state
    renamed = {}
    for name, tensor in state.items():
        path = name.removeprefix(prefix)
        now = rename(path, now_at, heads) if path != name else path
        if now is None:
            raise UserError(
                f"{path} of the adapter's file could belong to several modules of this model; need one; load the "
                "adapter's own base model"
            )
        renamed[name.removesuffix(path) + now] = tensor
    return renamed


def present_settings(config: Mapping[str, Any], plan: SharingPlan, now_at: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of an adapter that name modules, by their paths now.

    Args:
        config: the saved settings.
        plan: on the model of now.
        now_at: path of an adapted module when it was saved -> its path now.
    """
    patterns = {
        name: {
            plan.owner(new): values[key]
            for old, new in now_at.items()
            if (key := get_pattern_key(list(values), old)) in values
        }
        for name in _PATTERNS
        if (values := config.get(name))
    }
    targets = {plan.owner(path) for path in plan.by_path}
    return {"plan": plan.to_json(), "target_modules": sorted(targets), **patterns}
