"""The settings of transformers' Trainer, as a dataclass whose fields become flags, without importing transformers.

Importing `TrainingArguments` takes six seconds, and a parser needs no more than its names, types, defaults and help. So
they are read from its source, whatever its version. Where that has a form that is not understood here, the class itself
is imported.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import typing
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

_CLASS = "TrainingArguments"
_FILE = "training_args.py"
# What the source may call or name: the types of fields, and what makes a field.
_KNOWN: dict[str, Any] = {
    **{kind.__name__: kind for kind in (bool, dict, float, int, list, str)},
    **{name: getattr(typing, name) for name in ("Any", "Literal", "Optional", "Union")},
    "field": dataclasses.field,
    # Transformers makes these by a call; a test compares.
    "trainer_log_levels": dict.fromkeys(("detail", "debug", "info", "warning", "error", "critical", "passive")),
}

# What reading a source of another form raises.
NOT_UNDERSTOOD = (OSError, SyntaxError, LookupError, NameError, TypeError, ValueError, AttributeError)


@cache
def trainer_fields() -> Any:
    """Return a dataclass with the fields of `TrainingArguments`, for `add_fields`; no instance can be used to train."""
    spec = importlib.util.find_spec("transformers")
    locations = spec.submodule_search_locations if spec is not None else None
    try:
        return read_trainer_fields(Path(locations[0]) if locations else Path())
    except NOT_UNDERSTOOD:
        from transformers import TrainingArguments

        return TrainingArguments


def read_trainer_fields(folder: Path) -> Any:
    """Read the fields from the source of `transformers`.

    Args:
        folder: of the package.

    Raises:
        one of NOT_UNDERSTOOD: the class is not there, or has another form than a plain dataclass with
            `field(default=..., metadata=...)`.
    """
    tree = ast.parse((folder / _FILE).read_text(encoding="utf-8"))
    source = _class(tree, _CLASS)
    if source.bases or [ast.unparse(decorator) for decorator in source.decorator_list] != ["dataclass"]:
        raise TypeError(f"{_CLASS} is not a plain dataclass")
    names = dict(_KNOWN)
    fields = []
    for line in source.body:
        if isinstance(line, ast.Assign | ast.If):
            names |= _constants(line)
        elif isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            for name in _names(line.annotation) - names.keys():
                names[name] = _enum(tree, folder, name)
            value = dataclasses.field() if line.value is None else _evaluated(line.value, names)
            fields.append((line.target.id, _evaluated(line.annotation, names), value))
    return dataclasses.make_dataclass(_CLASS, fields)


def _class(tree: ast.Module, name: str) -> ast.ClassDef:
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return classes[name]


def _constants(line: ast.stmt) -> dict[str, Any]:
    """Return the constants that a line sets; of a condition on torch's version, what the present torch gets."""
    if isinstance(line, ast.If):
        if line.orelse or not all(name.startswith("is_torch_") for name in _names(line.test)):
            raise TypeError(f"{_CLASS} depends on {ast.unparse(line.test)}")
        return {name: value for inner in line.body for name, value in _constants(inner).items()}
    if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant):
        return {target.id: line.value.value for target in line.targets if isinstance(target, ast.Name)}
    return {}


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _evaluated(node: ast.expr, names: dict[str, Any]) -> Any:
    """Evaluate a type or a call of `field`, with nothing but these names."""
    code = compile(ast.Expression(node), _FILE, "eval")
    return eval(code, {"__builtins__": {}, **names})  # of an installed package, whose import would run the same


def _enum(tree: ast.Module, folder: Path, name: str) -> Any:
    """Return an enum that a file defines, or imports from one next to it; `Any` for other types."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name and "Enum" in " ".join(map(ast.unparse, node.bases)):
            members = {key: value for line in node.body for key, value in _constants(line).items()}
            return Enum(name, members)
        if isinstance(node, ast.ImportFrom) and node.level == 1 and name in [alias.name for alias in node.names]:
            file = folder.joinpath(*str(node.module).split(".")).with_suffix(".py")
            return _enum(ast.parse(file.read_text(encoding="utf-8")), file.parent, name)
    return Any
