"""Which method a command line means: by its name, by LoRA's own switches, or by the sharing flags."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Collection, Mapping
from typing import Any

from sharelora.flags import grouping
from sharelora.support.errors import UserError
from sharelora.training.glue.methods import EVERY, METHODS, OTHER_SHARING, Method

SHARING_FLAGS = ("share", "share_modules", "share_across", "share_groups", "share_plan")
LOW_RANK_FLAGS = (
    *SHARING_FLAGS, *grouping.FLAGS,
    "lora_modules", "lora_r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "enable_lora",
)  # fmt: skip


def method_of(sharing: Mapping[str, Any]) -> Method:
    """Return the row that sharing flags stand for, or the one for any other plan.

    Args:
        sharing: flag -> value, those that are given; without any, A is shared.
    """
    asked = {name: value for name, value in sharing.items() if value is not None} or {"share": "a"}
    return next((method for method in EVERY if method.sharing == asked), OTHER_SHARING)


def find_method(name: str) -> Method:
    """Return a method by its name.

    Raises:
        UserError: there is none; the nearest one is named.
    """
    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "change --method"
    raise UserError(f"found --method {name}; need one of {', '.join(METHODS)}; {hint}")


def choose_method(flags: argparse.Namespace, given: Collection[str]) -> Method:
    """Return what --method, LoRA's own switches and the sharing flags say together.

    Args:
        flags: the parsed command line.
        given: the flags that it has.

    Raises:
        UserError: they contradict each other.
    """
    asked = {flag: name for flag, name in _switches(flags).items() if name is not None}
    names = sorted(set(asked.values()))
    if len(names) > 1:
        raise UserError(f"found {' and '.join(f'--{flag}' for flag in asked)}; need one method; drop all but one")
    chosen = find_method(names[0]) if names else None
    if flags.apply_lora is False and chosen is None:
        raise UserError("found --apply_lora false; need what trains instead; pass --method full, bitfit, houlsby, ...")
    if chosen is None:
        sharing = {name: getattr(flags, name) for name in SHARING_FLAGS}
        plain = flags.apply_lora and not any(sharing.values())
        return METHODS["lora"] if plain else method_of(sharing)
    _check_agreement(chosen, flags, given)
    return chosen


def _switches(flags: argparse.Namespace) -> dict[str, str | None]:
    return {
        "method": flags.method,
        "apply_adapter": flags.adapter_type if flags.apply_adapter else None,
        "apply_bitfit": "bitfit" if flags.apply_bitfit else None,
    }


def _check_agreement(method: Method, flags: argparse.Namespace, given: Collection[str]) -> None:
    if method.sharing is None:
        unused = [name for name in LOW_RANK_FLAGS if name in given]
        if unused or flags.apply_lora:
            name = unused[0] if unused else "apply_lora"
            raise UserError(f"found --{name} with the method {method.name}, which has no low-rank matrices; drop one")
        return
    for name, value in method.sharing.items():
        if name in given and getattr(flags, name) != value:
            raise UserError(
                f"found --{name} {getattr(flags, name)} with the method {method.name}, which means {value}; drop one"
            )


def with_sharing(flags: argparse.Namespace, method: Method) -> argparse.Namespace:
    """Return the flags with the sharing that a method's name stands for."""
    return argparse.Namespace(**{**vars(flags), **(method.sharing or {})})
