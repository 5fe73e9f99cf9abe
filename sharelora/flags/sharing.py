"""The flags that say what is adapted and what is shared, the same for every entry point, and how they are read."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

from sharelora.flags.adapter import AdapterSettings
from sharelora.flags.grouping import MeasuredGroups, add_choice_flags, measured_groups
from sharelora.flags.parser import Parser, boolean, positive
from sharelora.flags.ranges import ABOVE_0, PART
from sharelora.plan.rule import ODD_EVEN, SharingRule
from sharelora.plan.site import ALL_LINEAR
from sharelora.support.errors import UserError
from sharelora.support.reading import read_json

Groups = tuple[tuple[int, ...], ...] | str
PATTERN = "re:"  # what follows it is a regular expression of whole paths
SYNTAX = 'ranges with commas ("0-3,4-7"), lists with semicolons ("0,1;2,3,5-6"), or odd_even'
# Together they say what is shared; a hand-written plan replaces them all.
_RULE_FLAGS = ("share", "share_modules", "share_across", "share_groups")
_MOST_LAYERS = 10_000
# A placeholder for groups still to be measured: whether groups go with the other flags does not depend on which.
_ANY_GROUPS = ((0, 1),)


def _layers(text: str) -> tuple[int, ...]:
    """Read one item: a layer `5`, or a range with both ends `0-3`."""
    match = re.fullmatch(r"([0-9]{1,18})\s*(?:-\s*([0-9]{1,18}))?", text.strip())
    if not match:
        raise UserError(f"share_groups: found {text.strip()!r}; need a layer or a range of layers; write {SYNTAX}")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first or last >= _MOST_LAYERS:
        raise UserError(f"share_groups: found the range {text.strip()!r}; need first-last, counted from 0")
    return tuple(range(first, last + 1))


def parse_groups(text: str) -> Groups:
    """Read groups of layers.

    Without a semicolon, ranges are groups (`0-3,4-7` is two) and plain layers are one group (`0,1,2`).

    Returns:
        Groups of layer indices, or `odd_even`.

    Raises:
        UserError: anything else, or layers and ranges mixed without a semicolon, which could mean two things.
    """
    if text.strip() == ODD_EVEN:
        return ODD_EVEN
    if ";" in text:
        return tuple(tuple(n for item in group.split(",") for n in _layers(item)) for group in text.split(";"))
    items = [_layers(item) for item in text.split(",")]
    ranges = ["-" in item for item in text.split(",")]
    if all(ranges):
        return tuple(items)
    if any(ranges):
        raise UserError(f"share_groups: {text!r} mixes layers and ranges; say where groups end; write {SYNTAX}")
    return (tuple(layer for item in items for layer in item),)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(re.split(r"\s*,\s*|\s+", text.strip()))
    if not all(names):
        raise UserError(f"found the names {text!r}; need names with a comma between them, e.g. q_proj,v_proj")
    return names


def parse_modules(text: str) -> str | list[str]:
    """Read `all`, names such as `q_proj,v_proj`, or `re:` and a pattern, as PEFT's `target_modules` takes them.

    Raises:
        UserError: a pattern that is not a regular expression.
    """
    if text.startswith(PATTERN):
        pattern = text.removeprefix(PATTERN)
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(
                f"lora_modules: found {text!r}, an invalid pattern: {error}; need a regular expression; correct it"
            ) from error
        return pattern
    return ALL_LINEAR if text.strip() in ("all", ALL_LINEAR) else list(_names(text))


def parse_parts(text: str) -> dict[str, list[bool]]:
    """Read which parts of fused modules are adapted: `c_attn=1,0,1` is q and v of GPT-2.

    Raises:
        UserError: another form.
    """
    parts: dict[str, list[bool]] = {}
    for item in text.split(";"):
        name, _, flags = item.partition("=")
        if not re.fullmatch(r"[01](,[01])+", flags.replace(" ", "")) or not name.strip():
            raise UserError(f"enable_lora: found {item!r}; need module=flags with 1 or 0 per part, e.g. c_attn=1,0,1")
        parts[name.strip()] = [flag == "1" for flag in flags.replace(" ", "").split(",")]
    return parts


def add_share_flags(parser: Parser) -> None:
    """Add the flags of adapters and sharing; an entry point changes their defaults with `parser.set_defaults`."""
    lora = parser.add_argument_group("adapter")
    lora.add_argument(
        "--lora_modules", default="all", metavar="NAMES", help="all linear layers, q_proj,v_proj, or re:PATTERN"
    )
    lora.add_argument("--lora_r", type=positive, default=64, metavar="R", help="rank of every adapted layer")
    lora.add_argument("--lora_alpha", type=ABOVE_0, default=16, metavar="ALPHA", help="the scale is alpha / r")
    lora.add_argument("--lora_dropout", type=PART, default=0.0, metavar="P", help="dropout of the adapter's input")
    for flag, text in (
        ("--share_dropout_mask", "one dropout mask for modules that read the same input: less memory"),
        ("--use_rslora", "divide alpha by sqrt(r) instead of r"),
        ("--use_dora", "train DoRA's magnitudes too"),
    ):
        lora.add_argument(flag, type=boolean, nargs="?", const=True, default=False, metavar="BOOL", help=text)
    add_sharing_flags(parser)


def add_sharing_flags(parser: Parser) -> None:
    """Add the flags that say what is shared, for a command that takes rank and modules from elsewhere."""
    share = parser.add_argument_group("sharing")
    share.add_argument("--share", metavar="MODE", help="none (LoRA), a, b or ab; a if not given")
    share.add_argument("--share_modules", metavar="NAMES", help="modules that share, e.g. q_proj,k_proj; all if absent")
    share.add_argument(
        "--share_across", metavar="WHAT", help="layers, modules (of one layer) or both; layers if absent"
    )
    share.add_argument(
        "--share_groups",
        "--share_layers",
        metavar="GROUPS",
        help=f"layers that share: {SYNTAX}; a file of `sharelora similarity`; or auto, to measure first",
    )
    add_choice_flags(share)
    share.add_argument("--share_plan", metavar="FILE", help="a plan as JSON, in place of the four flags above")
    share.add_argument("--enable_lora", metavar="PARTS", help="parts of fused layers: c_attn=1,0,1 is GPT-2's q and v")


def adapter_settings(args: argparse.Namespace, measures: bool = False) -> AdapterSettings:
    """Read the flags of `add_share_flags`.

    Args:
        args: the parsed command line.
        measures: whether the command measures similarities itself for `--share_groups auto` (`add_auto_flags`).

    Raises:
        UserError: an unknown value, flags that contradict each other, or a file that cannot be read.
    """
    sharing, measured = _sharing(args, measures)
    return AdapterSettings(
        modules=parse_modules(args.lora_modules) if args.lora_modules else None,
        r=args.lora_r,
        alpha=args.lora_alpha,
        dropout=args.lora_dropout,
        share_dropout_mask=args.share_dropout_mask,
        use_rslora=args.use_rslora,
        use_dora=args.use_dora,
        enabled=enabled_slices(args),
        sharing=sharing,
        measured=measured,
        expansion=args.expand_rank,
    )


def sharing_of(args: argparse.Namespace) -> SharingRule | Mapping[str, Any]:
    """Read the flags of `add_sharing_flags`: a rule, or a hand-written plan as data.

    Raises:
        UserError: see `adapter_settings`.
    """
    return _sharing(args, measures=False)[0]


def enabled_slices(args: argparse.Namespace) -> dict[str, list[bool]] | None:
    """Read which parts of fused modules are adapted; None if nothing is said about them.

    Raises:
        UserError: another form than `c_attn=1,0,1`.
    """
    return parse_parts(args.enable_lora) if args.enable_lora else None


def _sharing(args: argparse.Namespace, measures: bool) -> tuple[SharingRule | Mapping[str, Any], MeasuredGroups | None]:
    flags = {name: value for name in _RULE_FLAGS if (value := getattr(args, name)) is not None}
    if args.share_plan:
        if flags:
            raise UserError(f"found --share_plan and --{next(iter(flags))}; a plan says all that is shared; drop one")
        return read_json(args.share_plan), None
    modules = _names(args.share_modules) if args.share_modules else None
    measured = measured_groups(args, measures)
    groups: Groups | None
    if measured is None:
        groups = parse_groups(args.share_groups) if args.share_groups else None
    elif measured.similarity is None:
        groups = _ANY_GROUPS
    else:
        groups = measured.grouping.groups
    return SharingRule(args.share or "a", modules, args.share_across or "layers", groups), measured
