"""Turn a LoRA into the nearest one that shares its matrices."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sharelora.checkpoint.compression import REPORT, Compression, SiteError
from sharelora.checkpoint.factors import Product, distance
from sharelora.checkpoint.folder import new_folder
from sharelora.checkpoint.given import Given, read_given
from sharelora.checkpoint.grouping import share, with_rank
from sharelora.checkpoint.importing import Enable, planned, rank_settings, write_adapter
from sharelora.checkpoint.opening import Opened, open_source
from sharelora.checkpoint.sizes import Size
from sharelora.config import ShareLoraConfig
from sharelora.errors import UserError
from sharelora.files import write_json
from sharelora.handwritten import plan_from_rows
from sharelora.plan import Entry, SharingPlan
from sharelora.rules import SharingRule
from sharelora.share_flags import rule_fields

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
