"""The flags that ask `sharelora plan` which plans fit into a budget."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from sharelora.flags.adapter import AdapterSettings
from sharelora.flags.parser import Parser
from sharelora.flags.sharing import add_share_flags
from sharelora.plan.budget import RULES, Budget, fits, module_sets, recommend, render
from sharelora.plan.plan import SharingPlan
from sharelora.plan.rule import SharingRule
from sharelora.plan.site import Site
from sharelora.support.errors import UserError

if TYPE_CHECKING:
    from torch import nn

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "b": 3}  # 1B parameters are 1G
_SHARING = ("share", "share_modules", "share_across", "share_groups")


def amount(text: str) -> int:
    """Read a count: 5000000, 5M, 1.5k."""
    return _amount(text, r"([kmgb]?)", "a count such as 5M")


def size_in_bytes(text: str) -> int:
    """Read a size in decimal units: 20MB, 1.5GB, 20000000."""
    return _amount(text, r"([kmg]?)b?", "a size such as 20MB")


def _amount(text: str, units: str, needed: str) -> int:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*" + units + r"\s*", text.lower())
    if not found or float(found[1]) <= 0:
        raise argparse.ArgumentTypeError(f"found {text!r}; need {needed}")
    return round(float(found[1]) * 1000 ** _POWERS[found[2]])


def add_budget_flags(parser: Parser) -> None:
    """Add the flags of a budget, where modules, rank and sharing are looked for unless they are given."""
    budget = parser.add_argument_group(
        "budget: list the plans that fit; modules, sharing and rank are looked for unless they are given"
    )
    budget.add_argument("--max_params", type=amount, metavar="N", help="most parameters, e.g. 5M")
    budget.add_argument("--max_file", type=size_in_bytes, metavar="SIZE", help="largest adapter file, e.g. 20MB")


def budget_from(args: argparse.Namespace) -> Budget | None:
    """Return the budget that the flags give, or None.

    Raises:
        UserError: a budget for a plan that is written by hand.
    """
    if args.max_params is None and args.max_file is None:
        return None
    if args.share_plan:
        raise UserError("found --share_plan and a budget; a plan has its ranks already; drop one of them")
    return Budget(args.max_params, args.max_file)


def plans_within(
    args: argparse.Namespace, settings: AdapterSettings, model: nn.Module, budget: Budget
) -> tuple[str, SharingPlan]:
    """Look for the plans that fit; sharing, modules and rank that the command line has are not varied.

    Args:
        args: the command line.
        settings: what it comes to for this model.
        model: on the meta device.
        budget: what there is.

    Returns:
        A table with a recommendation, and the recommended plan.

    Raises:
        UserError: nothing fits, or flags that do not fit the model.
    """
    defaults = Parser()
    add_share_flags(defaults)
    fixed_modules = args.lora_modules != defaults.get_default("lora_modules")
    fixed_rank = args.lora_r != defaults.get_default("lora_r")
    # `settings` may name the modules of the language model alone.
    sites = settings.sites(model)
    sets: dict[str, list[Site]] = {args.lora_modules: sites} if fixed_modules else module_sets(sites)
    rules = _rules(args, settings)
    found = fits(sets, budget, rules, settings.r if fixed_rank else None)
    text = render(found, budget)
    best, _ = recommend([fit for fit in found if fit.rank])
    return text, SharingPlan.build(sets[best.modules], rules[best.sharing], best.rank)


def _rules(args: argparse.Namespace, settings: AdapterSettings) -> dict[str, SharingRule]:
    flags = [(name, value) for name in _SHARING if (value := getattr(args, name)) is not None]
    if not flags:
        return dict(RULES)
    assert settings.rule is not None, "only a plan's file stands for no rule"
    others = "".join(f" --{name} {value}" for name, value in flags if name != "share")
    return {settings.rule.share + others: settings.rule}
