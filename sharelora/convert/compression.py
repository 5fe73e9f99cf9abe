"""Compression: from a LoRA to the nearest one that shares its matrices."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharelora.convert.compress_result import RESULT_FILE, Compression, SiteError
from sharelora.convert.fit import Product, RankSelection, distance, fit, make_targets, spaces_of
from sharelora.convert.importing import pairs_by_site, planned, rank_settings, ranks_of, write_adapter
from sharelora.convert.sources import EnableLora, LoraOnBase, open_lora
from sharelora.plan.plan import Entry, SharingPlan
from sharelora.plan.rows import plan_from_rows
from sharelora.plan.rule import SharingRule, rule_fields
from sharelora.plan.site import Site, owner
from sharelora.support.errors import UserError
from sharelora.support.files import write_json
from sharelora.support.folders import new_folder
from sharelora.tuner.config import ShareLoraConfig
from sharelora.tuner.files import CONFIG_FILE
from sharelora.tuner.sites import sites_of

logger = logging.getLogger(__name__)

DORA = "DoRA's magnitudes are copied unchanged; the errors are those of B A, before the magnitudes rescale it"


def compress(
    source: str | Path,
    out_folder: str | Path,
    sharing: SharingRule | Mapping[str, Any],
    ranks: RankSelection | None = None,
    base: str | Path | None = None,
    alpha: float | None = None,
    enable_lora: EnableLora | None = None,
) -> Compression:
    """Write a LoRA as the nearest adapter that shares its matrices by a plan.

    Nearest is meant in the sum over all sites of || scaling * (B A - B' A') ||^2; scalings stay as they are. Sites that
    share with no other, and matrices that already agree, are taken over unchanged.

    Args:
        source: a PEFT LoRA folder, an adapter of this project, which may share already, or a flat loralib file
            (safetensors, or pickled tensors).
        out_folder: a folder that does not exist yet, or is empty; it also gets `compression.json`, with the error of
            every site.
        sharing: a rule, or a hand-written plan, whose ranks are ignored.
        ranks: how they are chosen; None means the least that keep 99 % of what sharing can express.
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
    with new_folder(out_folder, CONFIG_FILE) as folder:
        opened = open_lora(source, base, alpha, accept_shared=True)
        enable_lora = enable_lora or opened.lora.enable_lora
        lora = split_into_sites(opened, enable_lora)
        pattern = _sharing_pattern(lora, sharing)
        shared = share(lora, pattern, ranks or RankSelection())
        plan = SharingPlan(shared.entries)
        compression = Compression(
            folder=Path(out_folder),
            source=opened.lora.name,
            plan=plan,
            errors=tuple(_site_error(entry, lora, shared.bank) for entry in plan.entries),
            spectra=shared.spectra,
            elements_before=opened.lora.elements or lora.plan.num_parameters,
            notes=(DORA,) if opened.settings.get("use_dora") else (),
        )
        write_adapter(folder, shared.bank, opened.heads, _config(opened, plan, sharing, enable_lora))
        write_json(folder / RESULT_FILE, compression.to_json())
    if plan.num_parameters > compression.elements_before:
        logger.warning("the shared adapter is larger than the source; choose a lower rank or energy")
    return compression


@dataclass(frozen=True)
class LoraBySite:
    """The LoRA to be compressed, site by site.

    Attributes:
        plan: its sites and ranks, nothing shared.
        pairs: site's name -> A and B.
        scalings: module path -> the factor of B A.
    """

    plan: SharingPlan
    pairs: dict[str, tuple[Tensor, Tensor]]
    scalings: dict[str, float]

    def rank(self, site: Site) -> int:
        """Return the rank of a site."""
        return self.pairs[site.name][0].shape[0]

    def weight(self, site: Site) -> float:
        """Return the weight of a site's squared error: its scaling squared."""
        return self.scalings[site.path] ** 2

    def product(self, site: Site) -> Product:
        """Return a site's B A in fp64, without its scaling."""
        return _product(*self.pairs[site.name])


def _product(a: Tensor, b: Tensor) -> Product:
    """Return B A in fp64; a convolution is the linear map of all that its kernel covers."""
    return Product(b.double().flatten(1), a.double().flatten(1))


def split_into_sites(opened: LoraOnBase, enable_lora: EnableLora) -> LoraBySite:
    """Cut a LoRA into its sites.

    Raises:
        UserError: it is of another model, or every change is zero.
    """
    lora = opened.lora
    found = {path: module for path, module in opened.base.named_modules() if path in lora.pairs}
    modules = [path for path in found if owner(path, lora.pairs) == path]
    strange = sorted(lora.pairs.keys() - found.keys())
    if strange:
        raise UserError(
            f"{len(strange)} modules are only in the source, first {strange[0]}; give the source's own --base"
        )
    ranks, sites = ranks_of(lora, enable_lora), sites_of(opened.base, modules, enable_lora)
    grouped = next((site for site in sites if site.groups > 1), None)
    if grouped is not None:
        raise UserError(
            f"{lora.name} adapts {grouped.path}, a convolution of {grouped.groups} groups, whose change is no product "
            "B A that could be fitted; leave it out, or train the shared adapter"
        )
    plan = SharingPlan.build(sites, SharingRule(), r=1, rank_pattern=ranks)
    pairs = pairs_by_site(lora, plan)
    if not any(bool(a.any()) and bool(b.any()) for a, b in pairs.values()):
        raise UserError(f"{lora.name} changes nothing: every B A is zero; need a trained adapter; train it first")
    return LoraBySite(plan, pairs, lora.scalings)


def _sharing_pattern(lora: LoraBySite, sharing: SharingRule | Mapping[str, Any]) -> SharingPlan:
    """Return the plan with rank 1 everywhere, so that equal names say who shares whatever the ranks are now."""
    sites = [entry.site for entry in lora.plan.entries]
    if isinstance(sharing, SharingRule):
        plan = SharingPlan.build(sites, sharing, r=1)
    else:
        plan = plan_from_rows(sharing, sites, r=1)
    if not plan.shares:
        raise UserError(
            "nothing would be shared, so there is nothing to compress; choose --share a, b or ab; "
            "`sharelora import` takes over a LoRA as it is"
        )
    return SharingPlan(tuple(entry.with_rank(1) for entry in plan.entries))


def _site_error(entry: Entry, lora: LoraBySite, bank: Mapping[str, Tensor]) -> SiteError:
    site = entry.site
    before = lora.product(site).scaled(lora.scalings[site.path])
    after = _product(bank[entry.a], bank[entry.b]).scaled(lora.scalings[site.path])
    return SiteError(site.name, site.kind, lora.rank(site), entry.r, before.norm(), distance(before, after))


def _config(
    opened: LoraOnBase, plan: SharingPlan, sharing: SharingRule | Mapping[str, Any], enable_lora: EnableLora
) -> ShareLoraConfig:
    """Return the configuration that gives the plan on loading.

    Raises:
        UserError: the source's target modules are more than those it has matrices for.
    """
    ranks = {path: entries[0].r for path, entries in plan.by_path.items()}
    settings = rank_settings(ranks, opened.lora.scalings)
    if isinstance(sharing, SharingRule):
        settings |= rule_fields(sharing)
    else:
        settings |= {"share_plan": plan.to_json(), "rank_pattern": {}}
    slices = {name: list(flags) for name, flags in enable_lora.items()} or None
    config = planned(opened.base, ShareLoraConfig(**opened.settings, **settings, enable_lora=slices))
    if SharingPlan.from_json(config.plan or {}) != plan:
        raise UserError(
            f"{opened.lora.name} has matrices for {len(plan.by_path)} modules, and its target_modules name others "
            "of the base too; give the source's own --base"
        )
    return config


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


def share(lora: LoraBySite, pattern: SharingPlan, ranks: RankSelection) -> Shared:
    """Return the matrices of all sites.

    Args:
        lora: the LoRA.
        pattern: a plan of rank 1 whose names say who shares.
        ranks: how they are chosen.

    Raises:
        UserError: a rank above that of the data.
    """
    # The slices of a fused module have one scaling and so one rank.
    groups = connected(pattern.entries, lambda entry: (entry.a, entry.b, entry.site.path))
    shared = [_agreed(entries, lora, ranks) or _fitted(entries, lora, ranks) for entries in groups]
    by_site = {entry.site.name: entry for group in shared for entry in group.entries}
    return Shared(
        tuple(by_site[entry.site.name] for entry in pattern.entries),
        {name: matrix for group in shared for name, matrix in group.bank.items()},
        {name: values for group in shared for name, values in group.spectra.items()},
    )


def connected(entries: Sequence[Entry], keys: Callable[[Entry], Sequence[str]]) -> list[list[Entry]]:
    """Group entries that have a key in common, directly or through others; within a group they keep their order."""
    groups: list[tuple[set[str], list[int]]] = []
    for index, entry in enumerate(entries):
        own, members = set(keys(entry)), [index]
        for group in [group for group in groups if group[0] & own]:
            groups.remove(group)
            own, members = own | group[0], members + group[1]
        groups.append((own, members))
    return [[entries[index] for index in sorted(members)] for _, members in groups]


def _agreed(entries: Sequence[Entry], lora: LoraBySite, ranks: RankSelection) -> Shared | None:
    """Return the source's matrices if their users already agree and they may stay; those of one site always may.

    Returns:
        None if something has to change.
    """
    new = tuple(entry.with_rank(lora.rank(entry.site)) for entry in entries)
    bank: dict[str, Tensor] = {}
    for entry in new:
        pair = lora.pairs[entry.site.name]
        if not all(torch.equal(bank.setdefault(name, m), m) for name, m in zip((entry.a, entry.b), pair, strict=True)):
            return None
    own_ranks = {entry.r for entry in new}
    alone = all(len({getattr(entry, side) for entry in entries}) == len(entries) for side in "ab")
    if not alone and not (len(own_ranks) == 1 and ranks.keeps(own_ranks.pop())):
        return None
    return Shared(new, {name: matrix.float().contiguous() for name, matrix in bank.items()}, {})


def _fitted(entries: Sequence[Entry], lora: LoraBySite, ranks: RankSelection) -> Shared:
    """Fit the matrices of sites that must have one rank."""
    parts = connected(entries, lambda entry: (entry.a, entry.b))
    targets = [make_targets((e.a, e.b, lora.weight(e.site), lora.product(e.site)) for e in part) for part in parts]
    spaces = [spaces_of(part) for part in targets]
    kinds = list(dict.fromkeys(entry.site.kind for entry in entries))
    where = f"{', '.join(kinds[:3])}{', ...' if len(kinds) > 3 else ''} ({len(entries)} sites)"
    rank = ranks.choose([space for part in spaces for space in part.values()], where)
    bank: dict[str, Tensor] = {}
    for part, part_targets, part_spaces in zip(parts, targets, spaces, strict=True):
        bank |= _balanced(fit(part_targets, part_spaces, rank), part, lora)
    new = tuple(entry.with_rank(rank) for entry in entries)
    names = {old.a: entry.a for old, entry in zip(entries, new, strict=True)}
    names |= {old.b: entry.b for old, entry in zip(entries, new, strict=True)}
    shapes = {name: shape for entry in new for name, shape in entry.shapes().items()}
    return Shared(
        new,
        {names[name]: matrix.float().reshape(shapes[names[name]]).contiguous() for name, matrix in bank.items()},
        {names[name]: space.values.tolist() for part in spaces for name, space in part.items()},
    )


def _balanced(matrices: dict[str, Tensor], entries: Sequence[Entry], lora: LoraBySite) -> dict[str, Tensor]:
    """Give the As the size that those of the source had, and the Bs the inverse.

    The product stays; but how fast further training moves A and B depends on how large they are.
    """
    before = torch.cat([lora.pairs[entry.site.name][0].double().flatten() for entry in entries])
    names = dict.fromkeys(entry.a for entry in entries)
    after = torch.cat([matrices[name].flatten() for name in names])
    factor = float(before.square().mean().sqrt() / after.square().mean().sqrt()) or 1.0
    return {name: matrix * factor if name in names else matrix / factor for name, matrix in matrices.items()}
