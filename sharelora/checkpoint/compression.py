"""What compressing an adapter came to: its size, and how far every site is from the source."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sharelora.plan import SharingPlan

REPORT = "compression.json"


@dataclass(frozen=True)
class SiteError:
    """How far one site is from the source.

    Attributes:
        site: its name.
        kind: of its module.
        rank_before: in the source.
        rank: now.
        norm: Frobenius norm of the source's scaling * B A.
        error: Frobenius norm of the difference.
    """

    site: str
    kind: str
    rank_before: int
    rank: int
    norm: float
    error: float

    @property
    def relative(self) -> float:
        """The error as a part of the norm; infinite where the source changes nothing and the result does."""
        if self.norm:
            return self.error / self.norm
        return math.inf if self.error else 0.0


def relative(errors: Iterable[SiteError]) -> float:
    """Return the error of some sites together as a part of their norm together."""
    errors = list(errors)
    norm = math.hypot(*(one.norm for one in errors))
    return math.hypot(*(one.error for one in errors)) / norm if norm else 0.0


@dataclass(frozen=True)
class Compression:
    """What was written.

    Attributes:
        folder: of the adapter.
        source: where the LoRA came from.
        plan: of the adapter.
        errors: one per site, in model order.
        spectra: shared matrix -> singular values, falling, of the joint changes of its sites; only of those that were
            fitted anew.
        elements_before: of all matrices of the source.
        notes: what a reader has to know.
    """

    folder: Path
    source: str
    plan: SharingPlan
    errors: tuple[SiteError, ...]
    spectra: dict[str, list[float]]
    elements_before: int
    notes: tuple[str, ...] = ()

    @property
    def relative(self) -> float:
        """The error of all sites together as a part of their norm together."""
        return relative(self.errors)

    @property
    def ranks(self) -> dict[str, int]:
        """Matrix that was fitted anew -> its rank."""
        return {name: entry.r for entry in self.plan.entries for name in (entry.a, entry.b) if name in self.spectra}

    def to_json(self) -> dict[str, Any]:
        """Return everything but the plan, which the adapter's configuration has, as plain JSON data."""
        sites = [{**asdict(one), "relative": _finite(one.relative)} for one in self.errors]
        return {
            "source": self.source,
            "relative_error": self.relative,
            "elements_before": self.elements_before,
            "elements": self.plan.num_parameters,
            "notes": list(self.notes),
            "sites": sites,
            "singular_values": self.spectra,
        }

    def table(self, per_site: bool = False) -> str:
        """Return the errors as text for people: a line per kind of module, or per site."""
        groups: dict[str, list[SiteError]] = defaultdict(list)
        for one in self.errors:
            groups[one.site if per_site else one.kind].append(one)
        rows: list[tuple[str, ...]] = [("", "sites", "rank", "least", "together", "most")]
        rows += [_line(name, group) for name, group in groups.items()]
        rows.append(_line("all", self.errors))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        return "\n".join(["relative error of scaling * B A", *lines, self._size(), *self.notes])

    def _size(self) -> str:
        now, before = self.plan.num_parameters, self.elements_before
        change = f"{abs(now / before - 1):.1%} {'fewer' if now <= before else 'MORE'}"
        return f"wrote {self.folder}: {now:,} elements; the source has {before:,} ({change})"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _span(values: Sequence[int]) -> str:
    least, most = min(values), max(values)
    return str(least) if least == most else f"{least}-{most}"


def _line(name: str, errors: Sequence[SiteError]) -> tuple[str, ...]:
    ranks = f"{_span([one.rank_before for one in errors])} -> {_span([one.rank for one in errors])}"
    parts = [one.relative for one in errors]
    numbers = (min(parts), relative(errors), max(parts))
    return (name, str(len(errors)), ranks, *(f"{number:.3g}" for number in numbers))
