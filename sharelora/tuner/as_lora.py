"""What PEFT does for LoRA alone, because it asks for the name of the method, done for ShareLoRA as well.

`tests/core/test_peft_places.py` lists every such place of PEFT, with what becomes of it here.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any, cast

from peft import PeftWarning
from peft.utils.peft_types import PeftType
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping

from sharelora.plan.plan import SharingPlan


def as_lora(config: Any) -> Any:
    """Return a copy of a configuration that says it is LoRA's."""
    config = copy.copy(config)
    config.peft_type = PeftType.LORA
    config.rank_pattern, config.alpha_pattern = dict(config.rank_pattern), dict(config.alpha_pattern)
    return config


def warn_of_experts(config: Any, model: nn.Module) -> None:
    """Warn where LoRA would adapt experts that a model keeps as parameters, which only target_parameters names.

    Args:
        config: of the adapter, before its target_modules are resolved.
        model: the base model.
    """
    loaded = config.saved_plan is not None  # what it adapts is long decided
    if loaded or config.target_modules is None or getattr(getattr(model, "config", None), "model_type", None) is None:
        return
    lora, base = as_lora(config), cast(Any, model)
    try:
        convert_peft_config_for_transformers(lora, model=model, conversions=get_model_conversion_mapping(base))
        experts = sorted(set(lora.target_parameters or ()) - set(config.target_parameters or ()))
    except ValueError:  # LoRA would refuse half of a fused parameter
        experts = ["some experts"]
    if experts:
        warnings.warn(
            f"{', '.join(experts)} of this model are parameters, not layers: LoRA would adapt them, ShareLoRA leaves "
            "them as they are; name the layers alone with target_modules to silence this",
            stacklevel=2,
        )


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
