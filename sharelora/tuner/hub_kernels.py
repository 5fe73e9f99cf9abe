"""Code that a hub would send: where the package `kernels` is installed, nothing is fetched unless it is asked for.

bitsandbytes fetches compiled kernels when it is imported on a CPU with AVX512-BF16, or at first use on a Mac;
transformers when a model of a few kinds is made. Only the standard library is imported here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

ASKED = "USE_HUB_KERNELS"  # transformers' switch, which is on if nobody sets it
_YES = ("1", "ON", "YES", "TRUE")
_KERNELS = "kernels"
# Modules that look for the package, and the flag by which one of them remembers that it had none.
_FETCHING = ("bitsandbytes.backends.cpu.ops", "bitsandbytes.backends.mps.ops")
_NONE_FOUND = "_kernel_load_failed"


def refuse_hub_kernels() -> None:
    """Keep kernels of a hub out, unless USE_HUB_KERNELS is set; call this before what would fetch them is imported."""
    if os.environ.setdefault(ASKED, "NO").upper() not in _YES:
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Lets the modules that would fetch kernels find no package for it."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        """Return the spec that the other finders return, with a loader that hides the package."""
        if fullname not in _FETCHING:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Without(spec.loader)
        return spec


class _Without(Loader):
    """A loader that hides the package while its module runs."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        modules: dict[str, Any] = sys.modules
        before = {name: modules[name] for name in (_KERNELS,) if name in modules}
        modules[_KERNELS] = None  # an import finds nothing then
        try:
            self.loader.exec_module(module)
        finally:
            del modules[_KERNELS]
            modules.update(before)
        if hasattr(module, _NONE_FOUND):
            setattr(module, _NONE_FOUND, True)
