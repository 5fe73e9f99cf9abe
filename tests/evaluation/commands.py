"""Evaluation commands as modules, a small model for them, and a way to run them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).parents[2] / "eval"

# Runs a command with more flags; returns the result and the records.
Score = Callable[..., tuple[dict[str, Any], list[dict[str, Any]]]]


def load_command(name: str) -> ModuleType:
    """The module of eval/NAME.py: the folder is no package."""
    spec = importlib.util.spec_from_file_location(f"eval_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_output(folder: Path, records: str = "predictions.jsonl") -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The result that a command left, empty if none, and the records."""
    rows = [json.loads(line) for line in (folder / records).read_text().splitlines()]
    result = folder / "result.json"
    return json.loads(result.read_text()) if result.exists() else {}, rows


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write a file of JSON lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def full(*args: Any, **options: Any) -> None:
    """Stands for a function that loads, where memory runs out."""
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nmore")


# What a command then says.
FULL = r"^memory ran out \(DefaultCPUAllocator: can't allocate[^\n]*9 bytes\.\); need more to load [^\n]*; use --{}, "
