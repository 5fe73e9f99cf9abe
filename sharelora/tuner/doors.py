"""What stands before functions of PEFT that know the matrices of LoRA alone.

They are no methods of the tuner, so it cannot override them. Whatever is not ShareLoRA's goes on to PEFT unchanged.
Those of which only PEFT has the name are replaced there, those that users import in every module that has them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from peft import PEFT_TYPE_TO_MIXED_MODEL_MAPPING, PeftConfig, PeftModel, mixed_model, peft_model
from peft.optimizers import loraplus, riemannian
from peft.optimizers.lorafa import LoraFAOptimizer
from peft.tuners.lora import intruders
from peft.tuners.mixed import MixedModel
from peft.tuners.xlora import model as xlora_model
from peft.utils import hotswap, loftq_utils
from peft.utils.peft_types import PeftType

from sharelora.support.errors import UserError
from sharelora.tuner import swap
from sharelora.tuner.files import PICKLE_FILE, WEIGHTS_FILE
from sharelora.tuner.loading import present_names
from sharelora.tuner.optimizers import group_embeddings, refuse_lorafa, trained_pairs
from sharelora.tuner.register import peft_type


def open_doors(config_cls: type, model_cls: type, bank: str) -> None:
    """Stand before those functions of PEFT.

    Args:
        config_cls: ShareLoraConfig.
        model_cls: ShareLoraModel.
        bank: its attribute that holds the matrices.
    """
    # Two adapters may scale their layers differently: `swap` gives each layer its own.
    checked = [key for key in hotswap.CONFIG_KEYS_TO_CHECK[PeftType.LORA] if key != "alpha_pattern"]
    hotswap.CONFIG_KEYS_TO_CHECK[peft_type()] = checked

    # So that one that is read from a file comes to `mix`, too.
    PEFT_TYPE_TO_MIXED_MODEL_MAPPING[peft_type()] = MixedModel

    def tuner_of(model: Any) -> Any:
        return next((module for module in model.modules() if isinstance(module, model_cls)), None)

    def save_pretrained(
        original: Callable[..., None],
        model: Any,
        save_directory: str,
        safe_serialization: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if not safe_serialization and any(isinstance(config, config_cls) for config in model.peft_config.values()):
            raise UserError(
                f"safe_serialization=False would write {PICKLE_FILE}, a pickle, which ShareLoRA does not load; "
                f"leave it out, and the weights are written as {WEIGHTS_FILE}"
            )
        original(model, save_directory, safe_serialization, *args, **kwargs)

    def swap_in(
        original: Callable[..., None], model: Any, state_dict: Any, adapter_name: str, config: Any, **named: Any
    ) -> None:
        if not isinstance(config, config_cls):
            original(model, state_dict, adapter_name, config, **named)
        else:
            swap.swap(tuner_of(model), state_dict, adapter_name, config, f".{bank}.")

    def pad(original: Callable[..., bool], model: Any, target_rank: int) -> bool:
        tuner = tuner_of(model)
        if tuner is None:
            return original(model, target_rank)
        swap.pad(tuner, target_rank)
        return True

    def pairs(original: Callable[..., None], optimizer: Any, params: Any, *args: Any, **kwargs: Any) -> None:
        refuse_lorafa(params, f".{bank}.")
        original(optimizer, params, *args, **kwargs)

    def lora_pairs(original: Callable[..., Any], model: Any) -> Any:
        tuner = tuner_of(model)
        return original(model) if tuner is None else trained_pairs(tuner)

    def lora_plus(original: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
        optimizer, tuner = original(model, *args, **kwargs), tuner_of(model)
        if tuner is not None:
            group_embeddings(optimizer, tuner)
        return optimizer

    def mix(original: Callable[..., None], peft_config: Any) -> None:
        if isinstance(peft_config, config_cls):
            raise UserError(
                "PeftMixedModel does not go with ShareLoRA: it makes layers without the tuner that owns the bank; "
                "leave out mixed=True or use peft's LoraConfig"
            )
        original(peft_config)

    def reduce(
        original: Callable[..., None], peft_model: Any, old_adapter_name: str = "default", *args: Any, **kwargs: Any
    ) -> None:
        tuner = tuner_of(peft_model)
        if tuner is None:
            return original(peft_model, old_adapter_name, *args, **kwargs)
        plan = tuner.plans[old_adapter_name]
        if plan.shares or any(entry.site.part is not None for entry in plan.entries):
            raise UserError(
                "reduce_intruder_dimension computes A and B of each layer for each other, so layers cannot share one; "
                "export the adapter as plain LoRA first (sharelora export)"
            )
        if embedding := next((entry.site.path for entry in plan.entries if entry.site.embedding), None):
            raise UserError(
                f"reduce_intruder_dimension does not go with {embedding}: PEFT gives A and B of an embedding each "
                "other's shape; use an adapter of linear layers"
            )
        return original(_AsLora(peft_model), old_adapter_name, *args, **kwargs)

    def fit(original: Callable[..., None], loader: Any, peft_model: Any, *args: Any, **kwargs: Any) -> None:
        tuner = tuner_of(peft_model)
        if tuner is not None and any(
            plan.shares or any(entry.site.part is not None for entry in plan.entries) for plan in tuner.plans.values()
        ):
            raise UserError(
                "LoftQ computes A and B of each layer for each other, so layers cannot share one; use it with "
                "share='none' and without enable_lora"
            )
        original(loader, peft_model, *args, **kwargs)

    def route(original: Callable[..., Any], *, model_id: str, subfolder: str | None = None, **named: Any) -> Any:
        # PEFT's own would look for a part of the names of its matrices that ours do not have, for ever.
        if PeftConfig._get_peft_type(model_id, subfolder=subfolder) == peft_type():
            raise UserError(
                f"X-LoRA does not go with ShareLoRA: {model_id} has a bank, and it reads a pair of matrices per layer; "
                "export the adapter as plain LoRA first (sharelora export)"
            )
        return original(model_id=model_id, subfolder=subfolder, **named)

    def load(
        original: Callable[..., Any], model: Any, state: dict[str, Any], adapter_name: str = "default", **options: Any
    ) -> Any:
        # PEFT looks for the heads of `modules_to_save` before it asks the tuner, and gives up where one has another
        # name, so there is no later place.
        if isinstance(getattr(model, "base_model", None), model_cls):
            state = present_names(model.base_model, state, adapter_name)
        return original(model, state, adapter_name=adapter_name, **options)

    def tags(original: Callable[..., list[str]], model: Any) -> list[str]:
        found = original(model)
        if isinstance(model.active_peft_config, config_cls):
            # Next to the tag of the method, as PEFT writes for LoRA alone.
            found += ["lora", peft_type().lower()]
        return found

    # What `replace_lora_weights_loftq` opens first.
    _stand_before(loftq_utils._SafetensorLoader, "__init__", fit)
    _stand_before(PeftModel, "save_pretrained", save_pretrained)
    _stand_before(PeftModel, "_get_peft_specific_model_tags", tags)
    _stand_before(peft_model, "set_peft_model_state_dict", load)
    _stand_before(hotswap, "hotswap_adapter_from_state_dict", swap_in)
    _stand_before(hotswap, "_pad_lora_weights", pad)
    _stand_before(LoraFAOptimizer, "__init__", pairs)
    _stand_before(riemannian, "_collect_lora_pairs", lora_pairs)
    _stand_before(mixed_model, "_check_config_compatible", mix)
    _stand_before(xlora_model, "_load_adapter_into_lora_model", route)
    _stand_everywhere(intruders.reduce_intruder_dimension, reduce)
    _stand_everywhere(loraplus.create_loraplus_optimizer, lora_plus)


class _AsLora:
    """A model that says that it is LoRA, for a function that asks nothing else.

    Args:
        model: of ShareLoRA.
    """

    peft_type = PeftType.LORA

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _stand_before(owner: Any, name: str, function: Callable[..., Any]) -> None:
    """Let a function be called with the one that it stands before, and then the arguments."""
    setattr(owner, name, _standing(getattr(owner, name), function))


def _stand_everywhere(original: Callable[..., Any], function: Callable[..., Any]) -> None:
    """As `_stand_before`, in every module that has imported a function, under whatever name."""
    standing = _standing(original, function)
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})
        for name in [name for name, value in list(names.items()) if value is original]:
            names[name] = standing


def _standing(original: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def standing(*args: Any, **kwargs: Any) -> Any:
        return function(original, *args, **kwargs)

    return standing
