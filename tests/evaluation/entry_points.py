"""The commands of eval/, which are files and no modules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def load_command(name: str) -> ModuleType:
    """Import eval/<name>.py."""
    spec = importlib.util.spec_from_file_location(f"eval_{name}", Path(__file__).parents[2] / "eval" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
