"""`sharelora plan`: which matrices adapters use and share, or which plans fit into a budget."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from sharelora.flags.adapter import AdapterSettings
from sharelora.flags.parser import Parser
from sharelora.flags.sharing import adapter_settings, add_share_flags
from sharelora.models.known import meta_model
from sharelora.models.outlines import outlined_sites
from sharelora.plan.budget import RULES, Budget, fits, module_sets, recommend, render
from sharelora.plan.plan import SharingPlan
from sharelora.plan.rule import SharingRule
from sharelora.plan.site import Site
from sharelora.support.errors import UserError
from sharelora.support.files import write_json

if TYPE_CHECKING:
    from torch import nn

MODEL_HELP = "a folder, a hub id, or a known name such as llama3-8b, roberta-base, gpt2-medium"
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "b": 3}  # 1B parameters are 1G
_SHARING = ("share", "share_modules", "share_across", "share_groups")


def add_plan_flags(parser: Parser) -> None:
    """Add the flags of `sharelora plan`."""
    parser.add_argument("--model", required=True, help=MODEL_HELP)
    add_share_flags(parser)
    budget = parser.add_argument_group(
        "budget: list the plans that fit; modules, sharing and rank are varied unless they are given"
    )
    budget.add_argument("--max_params", type=amount, metavar="N", help="maximum number of parameters, e.g. 5M")
    budget.add_argument("--max_file", type=size_in_bytes, metavar="SIZE", help="largest adapter file, e.g. 20MB")
    parser.add_argument(
        "--json", metavar="FILE", help="also write the plan (the recommended one) to a file for --share_plan"
    )


def amount(text: str) -> int:
    """Read a count: 5000000, 5M, 1.5k."""
    return _amount(text, r"([kmgb]?)", "a count such as 5M")


def size_in_bytes(text: str) -> int:
    """Read a size in decimal units: 20MB, 1.5GB, 20000000."""
    return _amount(text, r"([kmg]?)b?", "a size such as 20MB")


def _amount(text: str, units: str, needed: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*" + units + r"\s*", text.lower())
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"found {text!r}; need {needed}")
    return round(float(match[1]) * 1000 ** _POWERS[match[2]])


def run_plan(args: argparse.Namespace) -> None:
    """Print a plan, or the plans within a budget.

    Raises:
        UserError: flags that contradict each other or do not fit the model, or a budget that nothing fits into.
    """
    budget = Budget(args.max_params, args.max_file) if args.max_params or args.max_file else None
    if budget is not None and args.share_plan:
        raise UserError("found --share_plan and a budget; a plan has its ranks already; drop one of them")
    settings = adapter_settings(args)
    # Only what a whole model alone can tell is asked of one.
    plain = settings.enabled is None and settings.measured is None
    sites = outlined_sites(args.model, settings.modules) if plain else None
    if sites is None:
        settings, model = named_model(args)
        settings.check(model)
        sites = settings.sites(model)
    if budget is None:
        plan = settings.plan_of(sites)
        print(plan.table())
    else:
        text, plan = plans_within(args, settings, sites, budget)
        print(text)
    if args.json:
        write_json(args.json, plan.to_json())


def named_model(args: argparse.Namespace) -> tuple[AdapterSettings, nn.Module]:
    """Return the adapter's settings and the model that the flags name, on the meta device.

    Raises:
        UserError: no such model, or sharing flags that contradict each other.
    """
    settings = adapter_settings(args)
    model = meta_model(args.model)
    return settings.confined_to_language(model), model


def plans_within(
    args: argparse.Namespace, settings: AdapterSettings, sites: list[Site], budget: Budget
) -> tuple[str, SharingPlan]:
    """Find the plans that fit; sharing, modules and rank given on the command line are not varied.

    Args:
        args: the command line.
        settings: the adapter that it describes.
        sites: of the model.
        budget: the most parameters and bytes.

    Returns:
        A table with a recommendation, and the recommended plan.

    Raises:
        UserError: nothing fits, or flags that do not fit the model.
    """
    defaults = Parser()
    add_share_flags(defaults)
    modules_are_fixed = args.lora_modules != defaults.get_default("lora_modules")
    sets: dict[str, list[Site]] = {args.lora_modules: sites} if modules_are_fixed else module_sets(sites)
    rules = _rules(args, settings)
    rank = None if args.lora_r == defaults.get_default("lora_r") else settings.r
    candidates = fits(sets, budget, rules, rank)
    text = render(candidates, budget)
    best, _ = recommend([fit for fit in candidates if fit.rank])
    return text, SharingPlan.build(sets[best.modules], rules[best.sharing], best.rank)


def _rules(args: argparse.Namespace, settings: AdapterSettings) -> dict[str, SharingRule]:
    """Return the ways of sharing that are tried, by what follows `--share` on the command line."""
    flags = [(name, value) for name in _SHARING if (value := getattr(args, name)) is not None]
    if not flags:
        return dict(RULES)
    assert settings.rule is not None, "a hand-written plan was refused"
    others = "".join(f" --{name} {value}" for name, value in flags if name != "share")
    return {settings.rule.share + others: settings.rule}
