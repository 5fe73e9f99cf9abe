"""What does not belong together: a model, the plan of a saved adapter, and the adapter's file."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from sharelora.plan.plan import SharingPlan
from sharelora.support.errors import UserError

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def compare_with_saved(plan: SharingPlan, saved: SharingPlan) -> None:
    """Compare the plan of a model with that of a saved adapter.

    Raises:
        UserError: they differ.
    """
    if saved.hash == plan.hash:
        return
    old, new = set(saved.entries), set(plan.entries)
    entry = min(old - new or new - old, key=lambda e: e.site.name)
    raise UserError(
        f"the adapter was made for another model: its plan {saved.hash} and this model's {plan.hash} differ in "
        f"{len(old ^ new)} entries, first {entry.site.name} ({entry.site.d_in} to {entry.site.d_out}); "
        "load its own base model"
    )


def compare_with_file(plan: SharingPlan, state_dict: dict[str, Tensor], bank: str, use_dora: bool) -> None:
    """Compare the tensors of an adapter's file with its plan.

    Args:
        plan: of the adapter.
        state_dict: the tensors, by name.
        bank: what comes before the name of a matrix in that of its tensor.
        use_dora: whether each site has a magnitude, too.

    Raises:
        UserError: missing or unknown matrices, or other shapes or dtypes; missing magnitudes of DoRA.
    """
    odd = next((key for key, value in state_dict.items() if "lora_" in key and value.dtype not in _DTYPES), None)
    if odd is not None:
        raise UserError(
            f"the adapter file has {odd} as {state_dict[odd].dtype}; need a float of 16, 32 or 64 bits; save it so"
        )
    pattern = re.compile(rf".*\b{bank}\.(.+)")
    stored = {m[1]: tuple(value.shape) for key, value in state_dict.items() if (m := pattern.fullmatch(key))}
    difference = plan.difference(stored)
    if difference:
        raise UserError(
            f"the adapter file does not hold the matrices of its plan: {difference}; copy the folder again from its "
            "source"
        )
    suffix = ".lora_magnitude_vector"
    scaled = {f".{key.removesuffix(suffix)}" for key in state_dict if key.endswith(suffix)}
    missing = [path for path in plan.by_path if not any(key.endswith(f".{path}") for key in scaled)]
    if use_dora and missing:
        raise UserError(
            f"the adapter file lacks {len(missing)} magnitudes of DoRA, first {missing[0]}{suffix}; "
            "copy the folder again from its source"
        )
