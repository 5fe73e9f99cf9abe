"""Settings from a YAML or JSON file: every value as it is written there, and as the words of a command line.

YAML 1.1, which PyYAML reads, takes `no` and `off` for false, `1e-5` for text, `010` for eight, `12:30` for 750 and
`2026-01-31` for a date. A flag knows better what it takes. So a value reaches it as it is written, and only what lies
inside a mapping, which no flag reads, becomes a number or a truth value here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from sharelora.flags.fields import JSON
from sharelora.flags.parser import FALSE, TRUE, Parser, unknown_flag
from sharelora.flags.upstream import RULES, Rule, modernise
from sharelora.support.errors import UserError
from sharelora.support.reading import parse_json, read_text, require_shallow
from sharelora.support.text import one_line

FILE = "config"  # the flag that names such a file
_NULL, _MERGE, _SEQUENCE, _MAPPING = (f"tag:yaml.org,2002:{name}" for name in ("null", "merge", "seq", "map"))
# PyYAML reads some 100,000 characters a second, and an alias stands for a whole part of the file at each of its places.
MOST_BYTES, MOST_VALUES, MOST_ALIASES = 1 << 18, 100_000, 100
_INTEGER = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"(?=.{1,100}\Z)[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
# Words that are a truth value to YAML 1.1; 1 and 0 are numbers.
_TRUTH = {word: word in TRUE for word in (*TRUE, *FALSE) if word.isalpha()}


class Plain(str):
    """A value that stands in a file without quotes, as it is written there."""


class _AsWritten(yaml.SafeLoader):
    """Reads YAML whose values are null, as they are written, lists or mappings; refuses a key that is there twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012  PyYAML's own form
        first: [pair for pair in pairs if pair[0] in (_NULL, _MERGE)]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {  # noqa: RUF012  None is for every other kind of value, which is refused
        tag: yaml.SafeLoader.yaml_constructors[tag] for tag in (_NULL, _SEQUENCE, _MAPPING, None)
    }
    aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node as PyYAML does; there are not many aliases."""
        self.aliases += self.check_event(yaml.AliasEvent)
        if self.aliases > MOST_ALIASES:
            raise ValueError(f"more than {MOST_ALIASES} aliases")
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: Any) -> None:
        """Take over the keys of merged mappings as PyYAML does, each once: mappings merged in turn would multiply."""
        super().flatten_mapping(node)
        keys = (key.value if isinstance(key, yaml.ScalarNode) else id(key) for key, _ in node.value)
        node.value = list(dict(zip(keys, node.value, strict=True)).values())

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Compose a mapping as PyYAML does, which lets the last of equal keys win without a word."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in lines:
                raise UserError(_twice(key.value, f"in lines {lines[key.value]} and {line}"))
            lines[key.value] = line
        return node

    def text(self, node: yaml.ScalarNode) -> str:
        """A value with quotes, or in a block, is text and nothing else."""
        return str(node.value) if node.style else Plain(node.value)


_AsWritten.add_constructor("tag:yaml.org,2002:str", _AsWritten.text)


def _twice(name: str, where: str) -> str:
    return f"found {name} twice, {where}; need every setting once; remove one"


def read_settings(path: str | Path, what: str = "configuration") -> dict[str, Any]:
    """Read a file of settings, YAML or JSON.

    Args:
        path: of the file.
        what: it is, for messages.

    Returns:
        Name -> value: None, text (`Plain` where it has no quotes), or lists and mappings of these.

    Raises:
        UserError: no such file, another form, no mapping, or a name that is there twice.
    """
    path = Path(path).expanduser()
    text = read_text(path, MOST_BYTES)
    try:
        settings = _from_json(text) if path.suffix == ".json" else yaml.load(text, Loader=_AsWritten)
        require_shallow(settings, MOST_VALUES)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"cannot read the {what} {path}: {one_line(error, None)}; check the file") from error
    if settings is None:
        raise UserError(f"{path} is empty; need a YAML mapping of names to values; see --help")
    if not isinstance(settings, dict):
        kind = {list: "a list"}.get(type(settings), "text")
        raise UserError(f"{path} holds {kind}; need a YAML mapping of names to values; see --help")
    return {str(name): value for name, value in settings.items()}


def _from_json(text: str) -> Any:
    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise UserError(_twice(name, "in one mapping"))
            found[name] = Plain(json.dumps(value)) if isinstance(value, bool) else value
        return found

    return parse_json(text, object_pairs_hook=mapping, parse_int=Plain, parse_float=Plain, parse_constant=Plain)


def typed(value: Any) -> Any:
    """Return a value of a file as a number or truth value where it is written as one without quotes."""
    if isinstance(value, dict):
        return {str(name): typed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    if not isinstance(value, Plain):
        return value
    if value.lower() in _TRUTH:
        return _TRUTH[value.lower()]
    if _NUMBER.fullmatch(value):
        return int(value) if _INTEGER.fullmatch(value) else float(value)
    return str(value)


def _commas(value: Any) -> str:
    return ",".join(_each(value))


def _spaces(value: Any) -> str:
    return " ".join(_each(value))


def _groups(value: Any) -> str:
    """Write groups of layers: [[0, 1], [2, 3]] is 0,1;2,3, and [0-3, 4-7] is 0-3,4-7."""
    return ";".join(map(_commas, value)) if any(isinstance(item, list) for item in value) else _commas(value)


def _parts(value: Any) -> str:
    """Write slices of fused modules: {c_attn: [1, 0, 1]} is c_attn=1,0,1."""
    return ";".join(f"{name}={_commas(flags)}" for name, flags in value.items())


def _pairs(value: Any) -> str:
    """Write options: {eps: 1e-8} is eps=1e-8."""
    return ",".join(f"{name}={_each([item])[0]}" for name, item in value.items())


def _each(value: Any) -> list[str]:
    """Return the values of a list as text.

    Raises:
        ValueError: one of them is none.
    """
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, str) for item in items):
        raise ValueError
    return [str(item) for item in items]


# How flags that take one word have several values written in it, and how their lists and mappings look in messages.
_IN_A_WORD: Mapping[str, tuple[type, Callable[[Any], str]]] = {
    "lora_modules": (list, _commas),
    "share_modules": (list, _commas),
    "share_groups": (list, _groups),
    "share_layers": (list, _groups),
    "report_to": (list, _commas),
    "debug": (list, _spaces),
    "fsdp": (list, _spaces),
    "enable_lora": (dict, _parts),
    "optim_args": (dict, _pairs),
}


def setting_words(
    settings: Mapping[Any, Any], parser: Parser, rules: Mapping[str, Rule] = RULES, where: str | Path = ""
) -> list[str]:
    """Turn settings into words of a command line; a setting that is None is left out.

    Args:
        settings: flag without dashes -> value, as `read_settings` returns it, or a number or truth value.
        parser: knows every flag.
        rules: old flags.
        where: the settings come from, for messages.

    Raises:
        UserError: keys that are not flags, the nearest one is named; two keys for one flag; or a value of a form that
            its flag does not take.
    """
    names = {str(key): str(key).replace("-", "_") for key in settings}
    if FILE in names.values():
        raise UserError(f"{where}: found {FILE}, another file; need every flag in this one; leave it out")
    unknown = [key for key, name in names.items() if f"--{name}" not in parser.flags and name not in rules]
    if unknown:
        others = f"; unknown too: {', '.join(unknown[1:])}" if unknown[1:] else ""
        raise UserError(f"{where}: {unknown_flag(names[unknown[0]], parser.flags)}{others}")
    groups = {
        str(key): [] if value is None else [f"--{name}", *_words(name, value, parser, where)]
        for (key, value), name in zip(settings.items(), names.values(), strict=True)
    }
    meant: dict[str, str] = {}
    for key, words in groups.items():
        # A key without a value names its flag too; what would become of an old flag depends on its value.
        now, _ = modernise(words, parser.flags, rules) if words else ([f"--{names[key]}"], [])
        for flag in {parser.destination(word.removeprefix("--")) for word in now if word.startswith("--")}:
            if flag in meant:
                raise UserError(f"{where}: found {meant[flag]} and {key}, which are one flag; need it once; remove one")
            meant[flag] = key
    return [word for words in groups.values() for word in words]


def _words(name: str, value: Any, parser: Parser, where: str | Path) -> list[str]:
    form, write = _IN_A_WORD.get(name, (None, None))
    try:
        if write is not None and form is not None and isinstance(value, form):
            words = [write(value)]
        elif isinstance(value, dict):
            if parser.metavar(name) != JSON:
                raise ValueError
            words = [json.dumps(typed(value))]
        elif isinstance(value, list):
            words = _each([item if isinstance(item, str | list | dict) else str(item) for item in value])
            if not parser.takes_several(name) and len(words) > 1:
                raise ValueError
        else:
            words = [str(value)]
    except (ValueError, RecursionError) as error:
        needed = "a mapping" if parser.metavar(name) == JSON else "one value"
        if form is not None or parser.takes_several(name):
            needed = "one value, or a mapping of names to values" if form is dict else "one or more values"
        raise UserError(f"{where}: found {name} {value}; need {needed}; change it, or leave {name} out") from error
    dashed = [word for word in words if word.startswith("--")]
    if dashed:
        raise UserError(f"{where}: found {name} {dashed[0]!r}; need a value that does not begin with --; change it")
    return words
