"""Dataclasses as flags: one flag per field, with the field's type, choices, default and help."""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import Any

from sharelora.flags.parser import FALSE, Parser, boolean, number, whole
from sharelora.flags.ranges import RANGES
from sharelora.support.reading import parse_json
from sharelora.support.text import nearest

JSON = "JSON"  # the metavar of flags that take a mapping
NONE = "none"
FEW = 12  # so many choices are listed in full
NO_ALIASES: Mapping[str, Sequence[str]] = {}


def add_fields(
    parser: Parser,
    owner: Any,
    title: str,
    skip: Collection[str] = (),
    aliases: Mapping[str, Sequence[str]] = NO_ALIASES,
) -> None:
    """Add a flag for every field of a dataclass.

    Args:
        parser: where the flags go.
        owner: a dataclass type; the help of a field is in its metadata, as in transformers.
        title: the heading in `--help`.
        skip: fields that get no flag.
        aliases: other names of a flag, field -> names without dashes.
    """
    group = parser.add_argument_group(title)
    hints = typing.get_type_hints(owner)
    for field in dataclasses.fields(owner):
        if field.name not in skip and field.init:
            names = [f"--{name}" for name in (field.name, *aliases.get(field.name, ()))]
            group.add_argument(*names, dest=field.name, default=_default(field), **_options(field, hints[field.name]))


def take(owner: Any, values: argparse.Namespace) -> Any:
    """Build a dataclass from the parsed flags that `add_fields` made for it."""
    return owner(**{field.name: getattr(values, field.name) for field in dataclasses.fields(owner) if field.init})


def help_field(default: Any, text: str, **argument: Any) -> Any:
    """Make a dataclass field with a default and its help.

    Args:
        default: the value, or a function that returns it when the parser is built.
        text: the help.
        argument: for `add_argument`, instead of what follows from the field's type: `choices`, `metavar`, ...
    """
    metadata = {"help": text, **({"argument": argument} if argument else {})}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    value = None if field.default is dataclasses.MISSING else field.default
    return value.value if isinstance(value, Enum) else value


def _options(field: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
    text = " ".join(str(field.metadata.get("help") or " ").split()) or " "
    options: dict[str, Any] = {"help": text.replace("%", "%%")}
    if "argument" in field.metadata:
        return {**options, **field.metadata["argument"]}
    if field.name in RANGES:
        return {**options, "type": RANGES[field.name]}
    kinds = _kinds(hint)
    if bool in kinds and str not in kinds:
        return {**options, "type": boolean, "nargs": "?", "const": True, "metavar": "BOOL"}
    if any(typing.get_origin(kind) in (list, tuple) for kind in kinds) and str not in kinds:
        return {**options, "type": _scalar(kinds), "nargs": "+"}
    if choices := _choices(field, kinds):
        listed = f"; one of {', '.join(map(str, choices))}" if len(choices) <= FEW else ""
        return {"help": options["help"] + listed, "type": _one_of(choices)}
    if dict in map(_plain, kinds):
        return {**options, "type": _json, "metavar": JSON}
    if _default(field) == NONE:
        return {**options, "type": _or_none}
    return {**options, "type": _scalar(kinds)}


def _json(text: str) -> str:
    """Read a mapping, which transformers takes as JSON or as the name of a file that holds it."""
    try:
        found = parse_json(text) if text.lstrip().startswith("{") else None
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"found {text!r}, which is no JSON: {error}") from error
    if found is None and not text.endswith(".json"):
        raise argparse.ArgumentTypeError(f'found {text!r}; need JSON such as {{"name": 1}}')
    return text


def _or_none(text: str) -> str:
    """Read a word, of which YAML's words for false mean none: `report_to: off`."""
    return NONE if text.strip().lower() in FALSE else text


def _plain(kind: Any) -> Any:
    """The type itself of one with parameters: dict of dict[str, Any]."""
    return typing.get_origin(kind) or kind


def _one_of(choices: Sequence[Any]) -> Callable[[str], Any]:
    """Read one of a few values; a mistake names the nearest, since the Trainer's lists are long."""
    known = {str(choice): choice for choice in choices}

    def read(text: str) -> Any:
        # YAML's other words for it, as in `eval_strategy: off`.
        if text not in known and "no" in known and text.strip().lower() in FALSE:
            return known["no"]
        if text not in known:
            near = list(known) if len(known) <= FEW else nearest(text, known, n=3, cutoff=0.3)
            raise argparse.ArgumentTypeError(f"found {text!r}; need one of {', '.join(near or list(known))}")
        return known[text]

    return read


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The members of a union, without None."""
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return tuple(member for member in members if member is not type(None))


def _choices(field: dataclasses.Field[Any], kinds: Sequence[Any]) -> list[Any]:
    if "choices" in field.metadata:
        return list(field.metadata["choices"])
    for kind in kinds:
        if typing.get_origin(kind) is typing.Literal:
            return list(typing.get_args(kind))
        if isinstance(kind, type) and issubclass(kind, Enum):
            return [member.value for member in kind]
    return []


def _scalar(kinds: Sequence[Any]) -> Callable[[str], Any]:
    """Return what reads a value, or an item of a list: a number where only numbers are allowed, else text."""
    inner = [typing.get_args(kind)[0] if typing.get_origin(kind) in (list, tuple) else kind for kind in kinds]
    numbers = [kind for kind in inner if kind in (int, float)]
    if not numbers or len(numbers) < len(inner):
        return str
    return whole if numbers[0] is int else number
