"""What stands before functions of PEFT that know the matrices of LoRA alone.

They are no methods of the tuner, so it cannot override them. PEFT looks each of them up at every call, so it does not
matter who has imported what before; whatever is not ShareLoRA's goes on to PEFT unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from peft import PeftModel
from peft.optimizers.lorafa import LoraFAOptimizer
from peft.utils import hotswap, loftq_utils
from peft.utils.peft_types import PeftType

from sharelora.support.errors import UserError
from sharelora.tuner import swap
from sharelora.tuner.files import PICKLE_FILE, WEIGHTS_FILE
from sharelora.tuner.register import peft_type


def open_doors(config_cls: type, model_cls: type, bank: str) -> None:
    """Stand before those functions of PEFT.

    Args:
        config_cls: ShareLoraConfig.
        model_cls: ShareLoraModel.
        bank: its attribute that holds the matrices.
    """
    hotswap.CONFIG_KEYS_TO_CHECK[peft_type()] = hotswap.CONFIG_KEYS_TO_CHECK[PeftType.LORA]

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
        _refuse_pairs(params, f".{bank}.")
        original(optimizer, params, *args, **kwargs)

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

    # What `replace_lora_weights_loftq` opens first.
    _stand_before(loftq_utils._SafetensorLoader, "__init__", fit)
    _stand_before(PeftModel, "save_pretrained", save_pretrained)
    _stand_before(hotswap, "hotswap_adapter_from_state_dict", swap_in)
    _stand_before(hotswap, "_pad_lora_weights", pad)
    _stand_before(LoraFAOptimizer, "__init__", pairs)


def _stand_before(owner: Any, name: str, function: Callable[..., Any]) -> None:
    """Let a function be called with the one that it stands before, and then the arguments."""
    original = getattr(owner, name)

    @wraps(original)
    def standing(*args: Any, **kwargs: Any) -> Any:
        return function(original, *args, **kwargs)

    setattr(owner, name, standing)


def _refuse_pairs(params: Any, bank: str) -> None:
    """Refuse LoRA-FA, which takes parameters as pairs of an A and the B behind it; the bank has no pairs.

    Raises:
        UserError: matrices of a bank are among the parameters. Those that PEFT froze before are trained again.
    """
    named: list[tuple[str, torch.nn.Parameter]] = []
    for group in params:
        if isinstance(group, dict) and "names" in group:
            named += zip(group["names"], group["params"], strict=True)
    banked = [(name.partition(bank)[2], value) for name, value in named if bank in name]
    if not banked:
        return
    trained = tuple(f"{name.partition('.')[0]}.lora_A" for name, value in banked if value.requires_grad)
    for name, value in banked:
        if name.startswith(trained):
            value.requires_grad_(True)
    raise UserError(
        "LoRA-FA needs an A and a B of its own for every layer, and ShareLoRA keeps each matrix once; "
        "use another optimizer, or peft's LoraConfig"
    )
