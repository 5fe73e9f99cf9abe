"""Registration with PEFT, as one more of its methods.

PEFT has no public way for another package to add a method: `register_peft_method` wants a member of the closed enum
`PeftType`. This module adds that member; a test fails loudly when a new PEFT version changes what it relies on.
"""

from __future__ import annotations

from peft.utils import register_peft_method
from peft.utils.peft_types import PeftType

NAME = "SHARELORA"


def peft_type() -> PeftType:
    """Return the enum member of ShareLoRA, added on the first call."""
    if NAME not in PeftType.__members__:
        member = str.__new__(PeftType, NAME)
        member._name_ = NAME
        member._value_ = NAME
        member._sort_order_ = len(PeftType.__members__)  # type: ignore[attr-defined]
        # EnumType refuses new attributes; `type` sets them all the same.
        type.__setattr__(PeftType, NAME, member)
        PeftType._member_names_.append(NAME)
        PeftType._member_map_[NAME] = member
        PeftType._value2member_map_[NAME] = member
    return PeftType(NAME)


def register(config_cls: type, model_cls: type) -> None:
    """Register the config and the tuner with PEFT under the name `sharelora`."""
    # With LoRA's prefix PEFT freezes, saves and merges the parameters by the rules of LoRA.
    register_peft_method(name=peft_type().lower(), config_cls=config_cls, model_cls=model_cls, prefix="lora_")
