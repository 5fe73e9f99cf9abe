"""Packages whose names are imported on first use, and modules that are found under the names they had before."""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.abc import InspectLoader, Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, cast

from sharelora.support.old_names import OLD_FUNCTIONS


def make_lazy(package: str) -> None:
    """Let a package import on first use what its `__init__` imports under `if TYPE_CHECKING` (PEP 562).

    Type checkers and readers look for the names there, so they are not written down a second time.

    Args:
        package: its `__name__`.
    """
    module = sys.modules[package]

    @cache
    def names() -> dict[str, str]:
        """Return name -> module that it is imported from."""
        source = cast(InspectLoader, module.__loader__).get_source(package) or ""
        blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
        imports = [line for block in blocks for line in block.body if isinstance(line, ast.ImportFrom)]
        return {alias.name: str(line.module) for line in imports for alias in line.names}

    def get(name: str) -> Any:
        if name in names():
            value = getattr(import_module(names()[name]), name)
            setattr(module, name, value)
            return value
        submodule = f"{package}.{name}"
        if not name.startswith("_") and find_spec(submodule) is not None:
            return import_module(submodule)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    module.__getattr__ = get  # type: ignore[method-assign]
    module.__dir__ = lambda: sorted({*vars(module), *names()})  # type: ignore[method-assign]


def moved_functions(module: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module some of whose functions have another name or module now (PEP 562).

    Args:
        module: its `__name__`.
    """

    def get(name: str) -> Any:
        moved = OLD_FUNCTIONS[module.removeprefix("sharelora.")]
        if name not in moved:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        room, new = moved[name]
        warnings.warn(f"{module}.{name} is now sharelora.{room}.{new}", DeprecationWarning, stacklevel=2)
        return getattr(import_module(f"sharelora.{room}"), new)

    return get


class MovedModules(MetaPathFinder, Loader):
    """Finds modules under the names that they had before, with a warning that says the new one.

    Args:
        moved: old name -> new name. Other modules below an old package are looked for below the new one.
    """

    def __init__(self, moved: Mapping[str, str]) -> None:
        self.moved = moved

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        """Return how an old name is imported; None for any other."""
        package, _, rest = fullname.rpartition(".")
        new = self.moved.get(fullname) or (f"{self.moved[package]}.{rest}" if package in self.moved else None)
        if new is None or find_spec(new) is None:
            return None
        # The import system's own frames do not count, so this names the line that imports.
        warnings.warn(f"{fullname} is now {new}; import it from there", DeprecationWarning, stacklevel=2)
        return ModuleSpec(fullname, self, origin=new)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module itself, so that both names mean one module."""
        module = import_module(str(spec.origin))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Put back what the import system has just overwritten: the module is known by its new name."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state
