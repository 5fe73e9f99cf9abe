"""What PEFT does for LoRA alone, because it asks for the name of the method, done for ShareLoRA as well.

`tests/core/test_peft_places.py` lists every such place of PEFT, with what becomes of it here.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

from peft import PeftWarning
from peft.tuners.tuners_utils import _check_lora_target_modules_mamba
from peft.utils.peft_types import PeftType
from torch import Tensor, nn

from sharelora.plan.plan import SharingPlan
from sharelora.support.errors import UserError


def as_lora(config: Any) -> Any:
    """Return a copy of a configuration that says it is LoRA's."""
    config = copy.copy(config)
    config.peft_type = PeftType.LORA
    return config


def refuse_passed_by(config: Any, model: nn.Module, name: str) -> None:
    """Refuse a module whose weight its model reads past the module, so that an adapter would have no effect.

    Args:
        config: of the adapter.
        model: the base model.
        name: the last part of the module's path.

    Raises:
        UserError: such a module, e.g. Mamba's `out_proj`.
    """
    try:
        _check_lora_target_modules_mamba(as_lora(config), model, name)
    except ValueError as error:
        kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        raise UserError(
            f"{name} of a {kind} model cannot be adapted: its kernel reads the weight of {name} and passes an adapter "
            "by; name other modules with target_modules"
        ) from error


def warn_of_shards(tensors: Mapping[str, Tensor], plan: SharingPlan, prefix: str, adapter: str) -> None:
    """Warn where matrices that are about to be saved do not have the shapes of the plan.

    Args:
        tensors: what is saved, by name in the model.
        plan: of the adapter.
        prefix: what comes before the name of a matrix in that of its tensor.
        adapter: name of the adapter.
    """
    shapes = {name.rpartition(prefix)[2]: tuple(value.shape) for name, value in tensors.items() if prefix in name}
    wrong = [name for name, shape in shapes.items() if shape != plan.matrices.get(name)]
    if wrong:
        warnings.warn(
            f"adapter {adapter!r} is saved with {len(wrong)} of {len(shapes)} matrices in other shapes than its plan "
            f"has, first {wrong[0]}: {shapes[wrong[0]]}; they look like DeepSpeed ZeRO-3 / FSDP shards that "
            "nobody gathered, and nothing can load them; gather the weights and pass them as state_dict",
            PeftWarning,
            stacklevel=2,
        )
