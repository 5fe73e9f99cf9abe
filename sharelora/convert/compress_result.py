"""The result of a compression: its size, and how far every site is from the source."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sharelora.plan.plan import SharingPlan
from sharelora.support.text import columns

# In the folder of the adapter.
RESULT_FILE = "compression.json"


@dataclass(frozen=True)
class SiteError:
    """The distance of one site from the source.

    Attributes:
        site: its name.
        kind: of its module.
        rank_before: in the source.
        rank: in the compressed adapter.
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


def relative_error(errors: Iterable[SiteError]) -> float:
    """Return the error of some sites together as a part of their norm together."""
    errors = list(errors)
    norm = math.hypot(*(site.norm for site in errors))
    return math.hypot(*(site.error for site in errors)) / norm if norm else 0.0


@dataclass(frozen=True)
class Compression:
    """A compressed adapter as it was written.

    Attributes:
        folder: of the adapter.
        source: folder or file of the LoRA.
        plan: of the adapter.
        errors: one per site, in model order.
        spectra: shared matrix -> singular values, falling, of the joint changes of its sites; only of those that were
            fitted.
        elements_before: of all matrices of the source.
        notes: further remarks for the reader.
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
        return relative_error(self.errors)

    @property
    def ranks(self) -> dict[str, int]:
        """Matrix that was fitted -> its rank."""
        return {name: entry.r for entry in self.plan.entries for name in (entry.a, entry.b) if name in self.spectra}

    def to_json(self) -> dict[str, Any]:
        """Return everything but the plan, which the adapter's configuration has, as plain JSON data."""
        sites = [
            {**asdict(site), "relative": site.relative if math.isfinite(site.relative) else None}
            for site in self.errors
        ]
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
        """Return the errors as a table, with a line per kind of module or per site, and the size."""
        groups: dict[str, list[SiteError]] = defaultdict(list)
        for site in self.errors:
            groups[site.site if per_site else site.kind].append(site)
        rows: list[tuple[str, ...]] = [("", "sites", "rank", "least", "together", "most")]
        rows += [_row(name, errors) for name, errors in [*groups.items(), ("all", self.errors)]]
        after, before = self.plan.num_parameters, self.elements_before
        change = f"{abs(after / before - 1):.1%} {'fewer' if after <= before else 'MORE'}"
        size = f"wrote {self.folder}: {after:,} elements; the source has {before:,} ({change})"
        return "\n".join(["relative error of scaling * B A", *columns(rows), size, *self.notes])


def _row(name: str, errors: Sequence[SiteError]) -> tuple[str, ...]:
    before, after = _span([site.rank_before for site in errors]), _span([site.rank for site in errors])
    parts = [site.relative for site in errors]
    numbers = (min(parts), relative_error(errors), max(parts))
    return (name, str(len(errors)), f"{before} -> {after}", *(f"{number:.3g}" for number in numbers))


def _span(values: Sequence[int]) -> str:
    least, most = min(values), max(values)
    return str(least) if least == most else f"{least}-{most}"
