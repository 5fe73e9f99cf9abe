"""The libraries that adapters rely on, checked before any of them gets to work with an adapter.

An older PEFT has none of the hooks that the tuner overrides: it loads an adapter, leaves its matrices untrained, and
only warns.
"""

from __future__ import annotations

import re

from sharelora.support.errors import UserError

# As in pyproject.toml.
NEEDED = {"peft": ">=0.21,<0.22", "transformers": ">=5.17,<6", "torch": ">=2.11,<2.14"}


class OldVersionError(UserError, ImportError):
    """A library is older than adapters need."""


def check() -> None:
    """Compare the installed versions with the lowest that work; a newer one than was tested is tried.

    Raises:
        OldVersionError: an older one.
    """
    from importlib.metadata import PackageNotFoundError, version  # not light

    for name, wanted in NEEDED.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            continue  # its own import says so better
        if _numbers(found) < _numbers(wanted):
            raise OldVersionError(
                f"{name} {found} is installed; sharelora needs {name}{wanted}; "
                f'run: python -m pip install "{name}{wanted}"'
            )


def _numbers(text: str) -> tuple[int, ...]:
    """Return the first two numbers of a version, or of a specifier that begins with its lowest version."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])
