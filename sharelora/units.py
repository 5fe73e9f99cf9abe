"""Sizes as people read them."""

from __future__ import annotations

_UNITS = ("kB", "MB", "GB", "TB")


def size(count: float) -> str:
    """Return a number of bytes with three digits and a decimal unit: 1 kB is 1000 B."""
    if abs(count) < 1000:
        return f"{count:.0f} B"
    power = next((i for i in range(1, len(_UNITS)) if abs(count) < 999.5 * 1000**i), len(_UNITS))
    value = count / 1000**power
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f} {_UNITS[power - 1]}"
