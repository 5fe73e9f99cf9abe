"""A hook on the import of PEFT, whoever imports it: it learns of the adapters, and bitsandbytes stays quiet.

Nothing heavy is imported here, so that `import sharelora` takes no time where no model is needed.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from sharelora.tuner import versions

PEFT = "peft"
ROOM = f"{__package__}."
MODEL = f"{__package__}.model"  # registers the adapters when it is imported


class _WithoutKernelAdvice(logging.Filter):
    """Drop the advice to install an optional kernel package: nothing is wrong without it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "gemm_4bit_forward" not in record.getMessage()


def quiet_bitsandbytes() -> None:
    """Silence a harmless line that bitsandbytes logs when it is imported on a CPU; call this before the import."""
    advice = _WithoutKernelAdvice()
    for name in ("bitsandbytes", "bitsandbytes.backends.cpu.ops"):
        logging.getLogger(name).addFilter(advice)


def register_with_peft() -> None:
    """Make PEFT know the adapters: at once if it is imported already, else as soon as it is.

    Raises:
        OldVersionError: PEFT, or a library that it uses, is too old; else raised by the import of PEFT, every time.
    """
    if PEFT in sys.modules:
        versions.check()
        import_module(MODEL)
    else:
        sys.meta_path.insert(0, _Registration())


class _Registration(MetaPathFinder):
    """Sees PEFT and the modules of the tuner being imported, and imports the tuner's model after the outermost.

    Not directly after PEFT: a module of the tuner may be what imports it, and is then only half there.
    """

    def __init__(self) -> None:
        self.depth = 0

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        """Return the spec that the other finders return, with a loader that calls `finished` at its end."""
        if fullname != PEFT and not fullname.startswith(ROOM):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Watched(spec.loader, self)
        return spec

    def finished(self) -> None:
        """Register the adapters, once PEFT is there and nothing that needs it is half imported."""
        if self.depth == 0 and PEFT in sys.modules and self in sys.meta_path:
            sys.meta_path.remove(self)
            import_module(MODEL)


class _Watched(Loader):
    """A loader that tells when its module begins and ends to run."""

    def __init__(self, loader: Loader, registration: _Registration) -> None:
        self.loader = loader
        self.registration = registration

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        # Whoever asks the module for its source or its resources asks its own loader.
        module.__spec__.loader = module.__loader__ = self.loader
        self.registration.depth += 1
        try:
            if module.__name__ == PEFT:
                versions.check()
            self.loader.exec_module(module)
        finally:
            self.registration.depth -= 1
        self.registration.finished()
