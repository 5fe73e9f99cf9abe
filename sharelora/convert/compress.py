"""Turn a LoRA into the nearest one that shares its matrices."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharelora.convert.adapter_file import new_folder
from sharelora.convert.fit import Product, Size, distance, fit, make_cells, spaces
from sharelora.convert.importing import Enable, Given, planned, rank_settings, read_given, write_adapter
from sharelora.convert.sources import Opened, open_source
from sharelora.plan.plan import Entry, SharingPlan
from sharelora.plan.rows import plan_from_rows
from sharelora.plan.rule import SharingRule, rule_fields
from sharelora.support.errors import UserError
from sharelora.support.files import write_json
from sharelora.tuner.config import ShareLoraConfig

logger = logging.getLogger(__name__)


DORA = "DoRA's magnitudes are taken over as they are; the errors are those of B A, before the magnitudes rescale it"


def _who_shares(given: Given, sharing: SharingRule | Mapping[str, Any]) -> SharingPlan:
    """Return the plan with rank 1 everywhere, so that equal names say who shares whatever their ranks are now."""
    sites = [entry.site for entry in given.plan.entries]
    if isinstance(sharing, SharingRule):
        plan = SharingPlan.build(sites, sharing, r=1)
    else:
        plan = plan_from_rows(sharing, sites, r=1)
    if not plan.shares:
        raise UserError(
            "nothing would be shared, so there is nothing to compress; choose --share a, b or ab; "
            "`sharelora import` takes over a LoRA as it is"
        )
    return SharingPlan(tuple(with_rank(entry, 1) for entry in plan.entries))


def _error(entry: Entry, given: Given, bank: Mapping[str, Tensor]) -> SiteError:
    scaling = given.scalings[entry.site.path]
    before = given.product(entry.site).scaled(scaling)
    after = Product(bank[entry.b].double(), bank[entry.a].double()).scaled(scaling)
    return SiteError(
        entry.site.name, entry.site.kind, given.rank(entry.site), entry.r, before.norm(), distance(before, after)
    )


def _config(
    opened: Opened, plan: SharingPlan, sharing: SharingRule | Mapping[str, Any], enable: Enable
) -> ShareLoraConfig:
    """Return the configuration that gives the plan on loading.

    Raises:
        UserError: the source's target modules are more than those it has matrices for.
    """
    ranks = {path: entries[0].r for path, entries in plan.by_path.items()}
    settings = rank_settings(ranks, opened.source.scalings)
    if isinstance(sharing, SharingRule):
        settings |= rule_fields(sharing)
    else:
        settings |= {"share_plan": plan.to_json(), "rank_pattern": {}}
    parts = {name: list(flags) for name, flags in enable.items()} or None
    done = planned(opened.model, ShareLoraConfig(**opened.settings, **settings, enable_lora=parts))
    if SharingPlan.from_json(done.plan or {}) != plan:
        raise UserError(
            f"{opened.source.name} has matrices for {len(plan.by_path)} modules, and its target_modules name others "
            "of the base too; give the source's own --base"
        )
    return done


def compress(
    source: str | Path,
    out_folder: str | Path,
    sharing: SharingRule | Mapping[str, Any],
    size: Size | None = None,
    base: str | Path | None = None,
    alpha: float | None = None,
    enable_lora: Enable | None = None,
) -> Compression:
    """Write a LoRA as the nearest adapter that shares its matrices by a plan.

    Nearest is meant in the sum over all sites of || scaling * (B A - B' A') ||^2; scalings stay as they are. Sites that
    share with no other, and matrices that already agree, are taken over unchanged.

    Args:
        source: a PEFT LoRA folder, an adapter of this project, which may share already, or a flat loralib file
            (safetensors, or pickled tensors).
        out_folder: a folder that does not exist yet; it also gets `compression.json`, with the error of every site.
        sharing: a rule, or a plan written by hand, whose ranks are not looked at.
        size: which rank; None means the least that keeps 99 % of what sharing can express.
        base: folder, hub id or known name of the base model; None takes the one that the source names. Only its
            configuration is read.
        alpha: of a loralib file, which does not say it.
        enable_lora: fused modules and their enabled slices, as loralib's MergedLinear has them.

    Returns:
        What was written and how far it is from the source.

    Raises:
        UserError: a source that cannot be read, is of another model or untrained; a plan that shares nothing; a rank
            above that of the data.
    """
    opened = open_source(source, base, alpha, own=True)
    enable = enable_lora or opened.source.parts
    given = read_given(opened, enable)
    target = _who_shares(given, sharing)
    with new_folder(out_folder) as folder:
        shared = share(given, target, size or Size())
        plan = SharingPlan(shared.entries)
        done = Compression(
            folder=Path(out_folder),
            source=opened.source.name,
            plan=plan,
            errors=tuple(_error(entry, given, shared.bank) for entry in plan.entries),
            spectra=shared.spectra,
            elements_before=opened.source.elements or given.plan.num_parameters,
            notes=(DORA,) if opened.settings.get("use_dora") else (),
        )
        write_adapter(folder, shared.bank, opened.heads, _config(opened, plan, sharing, enable))
        write_json(folder / REPORT, done.to_json())
    if plan.num_parameters > done.elements_before:
        logger.warning("the shared adapter is larger than the source; choose a lower rank or energy")
    return done


# What compressing an adapter came to: its size, and how far every site is from the source.


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


# Which sites of a LoRA have to agree on matrices and ranks, and what they agree on.


@dataclass(frozen=True)
class Shared:
    """Matrices that some sites share.

    Attributes:
        entries: the sites with the names of their new matrices.
        bank: matrix name -> tensor in fp32.
        spectra: matrix name -> singular values of the joint changes of its sites; empty if nothing was fitted.
    """

    entries: tuple[Entry, ...]
    bank: dict[str, Tensor]
    spectra: dict[str, list[float]]


def with_rank(entry: Entry, rank: int) -> Entry:
    """Return an entry with another rank; names of matrices end in their shapes."""
    stem_a, stem_b = entry.a.rpartition("/")[0], entry.b.rpartition("/")[0]
    return replace(entry, r=rank, a=f"{stem_a}/{rank}x{entry.site.d_in}", b=f"{stem_b}/{entry.site.d_out}x{rank}")


def connected(entries: Sequence[Entry], keys: Callable[[Entry], Sequence[str]]) -> list[list[Entry]]:
    """Group entries that have a key in common, directly or through others, each group in the order given."""
    groups: list[tuple[set[str], list[int]]] = []
    for index, entry in enumerate(entries):
        own, members = set(keys(entry)), [index]
        for group in [group for group in groups if group[0] & own]:
            groups.remove(group)
            own, members = own | group[0], members + group[1]
        groups.append((own, members))
    return [[entries[index] for index in sorted(members)] for _, members in groups]


def _agreed(entries: Sequence[Entry], given: Given, size: Size) -> Shared | None:
    """Return the source's matrices if their users already agree and they may stay; those of one site always may.

    Returns:
        None if something has to change.
    """
    new = tuple(with_rank(entry, given.rank(entry.site)) for entry in entries)
    bank: dict[str, Tensor] = {}
    for entry in new:
        pair = given.pairs[entry.site.name]
        if not all(torch.equal(bank.setdefault(name, m), m) for name, m in zip((entry.a, entry.b), pair, strict=True)):
            return None
    ranks = {entry.r for entry in new}
    alone = all(len({getattr(entry, side) for entry in entries}) == len(entries) for side in "ab")
    if not alone and not (len(ranks) == 1 and size.keeps(ranks.pop())):
        return None
    return Shared(new, {name: matrix.float().contiguous() for name, matrix in bank.items()}, {})


def _where(entries: Sequence[Entry]) -> str:
    kinds = list(dict.fromkeys(entry.site.kind for entry in entries))
    return f"{', '.join(kinds[:3])}{', ...' if len(kinds) > 3 else ''} ({len(entries)} sites)"


def _balance(matrices: dict[str, Tensor], entries: Sequence[Entry], given: Given) -> dict[str, Tensor]:
    """Give the As the size that those of the source had, and the Bs the inverse.

    The product stays; but how fast further training moves A and B depends on how large they are.
    """
    before = torch.cat([given.pairs[entry.site.name][0].double().flatten() for entry in entries])
    names = {entry.a for entry in entries}
    after = torch.cat([matrices[name].flatten() for name in names])
    factor = float(before.square().mean().sqrt() / after.square().mean().sqrt()) or 1.0
    return {name: matrix * factor if name in names else matrix / factor for name, matrix in matrices.items()}


def _fitted(entries: Sequence[Entry], given: Given, size: Size) -> Shared:
    """Fit the matrices of sites that must have one rank."""
    parts = connected(entries, lambda entry: (entry.a, entry.b))
    cells = [make_cells((e.a, e.b, given.weight(e.site), given.product(e.site)) for e in part) for part in parts]
    found = [spaces(part) for part in cells]
    rank = size.choose([space for part in found for space in part.values()], _where(entries))
    bank: dict[str, Tensor] = {}
    for part, own_cells, own_spaces in zip(parts, cells, found, strict=True):
        bank |= _balance(fit(own_cells, own_spaces, rank), part, given)
    new = tuple(with_rank(entry, rank) for entry in entries)
    names = {old.a: entry.a for old, entry in zip(entries, new, strict=True)}
    names |= {old.b: entry.b for old, entry in zip(entries, new, strict=True)}
    return Shared(
        new,
        {names[name]: matrix.float().contiguous() for name, matrix in bank.items()},
        {names[name]: space.values.tolist() for part in found for name, space in part.items()},
    )


def share(given: Given, target: SharingPlan, size: Size) -> Shared:
    """Return the matrices of all sites.

    Args:
        given: the LoRA.
        target: a plan of rank 1 whose names say who shares.
        size: which rank.

    Raises:
        UserError: a rank above that of the data.
    """
    # The slices of a fused module have one scaling and so one rank.
    groups = connected(target.entries, lambda entry: (entry.a, entry.b, entry.site.path))
    done = [_agreed(entries, given, size) or _fitted(entries, given, size) for entries in groups]
    by_site = {entry.site.name: entry for one in done for entry in one.entries}
    return Shared(
        tuple(by_site[entry.site.name] for entry in target.entries),
        {name: matrix for one in done for name, matrix in one.bank.items()},
        {name: values for one in done for name, values in one.spectra.items()},
    )
