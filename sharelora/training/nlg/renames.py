"""Flags of LoRA's NLG script that mean something else here, or nothing."""

from __future__ import annotations

from collections.abc import Mapping

from sharelora.flags.upstream import RULES as GENERAL
from sharelora.flags.upstream import Change, Rule, dropped

_UNUSED = "LoRA's script reads it and never uses it"
_LAUNCH = "torchrun or accelerate launch says it in the environment"
# Old flags that stand for what has no flag here.
_ELSEWHERE = ("adam8bit", "adafactor", "adapter_order", "predict_with_generate")


def _rank(flag: str, value: str) -> Change:
    """LoRA's rank 0 means that everything is tuned."""
    if value.strip() == "0":
        return Change(("--full_finetune", "true"), f"--{flag} 0 is --full_finetune: every weight is tuned")
    return Change(("--lora_r", value), f"--{flag} {value} is --lora_r {value}")


RULES: Mapping[str, Rule] = {
    **{name: rule for name, rule in GENERAL.items() if name not in _ELSEWHERE},
    "lora_dim": _rank,
    **dict.fromkeys(("roll_interval", "roll_lr", "roll_step", "eval_epoch"), dropped(_UNUSED)),
    **dict.fromkeys(("platform", "local_rank", "rank", "device", "world_size"), dropped(_LAUNCH)),
}
