"""Packages whose names are imported on first use, and modules that are found under the names they had before."""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import InspectLoader, Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, cast


class LazyPackage(ModuleType):
    """A package that imports its names when they are used (PEP 562).

    The names are those that its `__init__` imports under `if TYPE_CHECKING`, where type checkers and readers look for
    them. A name wins over a submodule that is called the same: `sharelora.convert.compress` is the function.
    """

    def __getattr__(self, name: str) -> Any:
        """Import a name, or a submodule."""
        names = self._names()
        if name in names:
            value = getattr(import_module(names[name]), name)
            super().__setattr__(name, value)
            return value
        submodule = f"{self.__name__}.{name}"
        if not name.startswith("_") and find_spec(submodule) is not None:
            return import_module(submodule)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, unless it is a submodule that would hide a name: the import system sets each of them."""
        if not isinstance(value, ModuleType) or name not in self._names():
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        """List the names that are still to be imported as well."""
        return sorted({*super().__dir__(), *self._names()})

    def _names(self) -> dict[str, str]:
        """Return name -> module that it is imported from."""
        if "_lazy_names" not in self.__dict__:
            source = cast(InspectLoader, self.__loader__).get_source(self.__name__) or ""
            blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
            imports = [line for block in blocks for line in block.body if isinstance(line, ast.ImportFrom)]
            names = {alias.name: str(line.module) for line in imports for alias in line.names}
            super().__setattr__("_lazy_names", names)
        return cast(dict[str, str], self.__dict__["_lazy_names"])


def make_lazy(package: str) -> None:
    """Let a package import on first use what its `__init__` imports under `if TYPE_CHECKING`.

    Args:
        package: its `__name__`.
    """
    sys.modules[package].__class__ = LazyPackage


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
