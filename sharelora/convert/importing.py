"""Take over a plain LoRA whose matrices already agree with a sharing plan."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn

from sharelora.convert.adapter_file import BANK_PREFIX, new_folder
from sharelora.convert.fit import Product
from sharelora.convert.sources import Opened, Source, open_source
from sharelora.plan.plan import Entry, SharingPlan
from sharelora.plan.rule import SharingRule, rule_fields
from sharelora.plan.site import Site
from sharelora.support.errors import UserError
from sharelora.tuner.config import WEIGHTS_FILE, ShareLoraConfig
from sharelora.tuner.sites import sites_of

Enable = Mapping[str, Sequence[bool]]


@dataclass(frozen=True)
class Imported:
    """What was written: the folder, sites, elements of all matrices, and weights of the base that were left out."""

    folder: Path
    sites: int
    elements: int
    left_out: int


def _slice_count(path: str, enable: Enable) -> int:
    return next((sum(flags) for name, flags in enable.items() if f".{path}".endswith(f".{name}")), 1)


def _plain(number: float) -> float:
    return int(number) if float(number).is_integer() else number


def source_ranks(source: Source, enable: Enable) -> dict[str, int]:
    """Return the rank of every module's sites; its A has a row per rank of every slice.

    Args:
        source: a plain LoRA.
        enable: fused modules and their enabled slices.
    """
    return {path: a.shape[0] // _slice_count(path, enable) for path, (a, _) in source.pairs.items()}


def rank_settings(ranks: Mapping[str, int], scalings: Mapping[str, float]) -> dict[str, Any]:
    """Return ranks and alphas as settings that give these scalings: the most common ones, and exceptions.

    Args:
        ranks: module path -> rank of each of its sites.
        scalings: module path -> the factor of B A.
    """
    alphas = {path: _plain(round(scalings[path] * rank, 9)) for path, rank in ranks.items()}
    # In a PEFT folder a fused module has the rank of all its slices together, and its scaling with it.
    r, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "r": r,
        "lora_alpha": alpha,
        "rank_pattern": {path: rank for path, rank in ranks.items() if rank != r},
        "alpha_pattern": {path: own for path, own in alphas.items() if own != alpha},
    }


def planned(base: nn.Module, config: ShareLoraConfig) -> ShareLoraConfig:
    """Inject the adapter on the meta device, so that the plan is the one that loading will make."""
    # Heads and the task change nothing in the plan, and the base's class here need not have them.
    heads, task = config.modules_to_save, config.task_type
    config.modules_to_save = config.task_type = None
    trained_on = config.trained_on
    # PEFT takes the base's name from here, and warns where it finds another.
    cast(Any, base).name_or_path = config.base_model_name_or_path
    with torch.device("meta"), warnings.catch_warnings():
        # PEFT asks models for an attribute that transformers has renamed since.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        done: Any = get_peft_model(base, config, low_cpu_mem_usage=True).peft_config["default"]
    done.modules_to_save, done.task_type = heads, task
    # Not what this base is: what the source says that it was trained on, if it does.
    done.trained_on, done.inference_mode = trained_on, True
    return done


def _slices(entries: tuple[Entry, ...], a: Tensor, b: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Cut a module's A and B into those of its sites; empty if they do not fit.

    PEFT has one B in which each slice has its block of rows and columns; loralib puts the blocks of the enabled slices
    below each other.
    """
    rank, site = sum(entry.r for entry in entries), entries[0].site
    if a.shape != (rank, site.d_in):
        return []
    if b.shape == (site.d_out * len(entries), entries[0].r):
        return list(zip(a.split([entry.r for entry in entries]), b.split(site.d_out), strict=True))
    return _blocks(entries, a, b) if b.shape == (site.d_out * site.parts, rank) else []


def _blocks(entries: tuple[Entry, ...], a: Tensor, b: Tensor) -> list[tuple[Tensor, Tensor]]:
    rest, found, column = b.clone(), [], 0
    for entry in entries:
        part = entry.site.part or 0
        rows, columns = slice(part * entry.site.d_out, (part + 1) * entry.site.d_out), slice(column, column + entry.r)
        found.append((a[columns], b[rows, columns]))
        rest[rows, columns] = 0
        column += entry.r
    # An ordinary LoRA of the whole fused module mixes its slices, which sites of their own cannot express.
    return [] if bool(rest.any()) else found


def matrices_by_site(source: Source, plan: SharingPlan) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the source's matrices per site: site's name -> A and B.

    Raises:
        UserError: modules that only the source or only the plan has, or matrices of other shapes.
    """
    strange = sorted(source.pairs.keys() ^ plan.by_path.keys())
    if strange:
        where = "the source" if strange[0] in source.pairs else "the base model"
        raise UserError(f"{len(strange)} modules are only in {where}, first {strange[0]}; give the source's own --base")
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for path, entries in plan.by_path.items():
        a, b = source.pairs[path]
        slices = _slices(entries, a, b)
        if not slices:
            need = ", ".join(
                f"{entry.site.name}: {' and '.join(map(str, entry.shapes().values()))}" for entry in entries
            )
            raise UserError(
                f"{path} has A {tuple(a.shape)} and B {tuple(b.shape)}; need {need}; "
                "give the source's own --base, and --enable_lora for a fused module"
            )
        found |= {entry.site.name: pair for entry, pair in zip(entries, slices, strict=True)}
    return found


def collect(plan: SharingPlan, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return every matrix of a plan once, in fp32, taken from its users, which must all have the same.

    Args:
        plan: which site uses which matrices.
        pairs: site's name -> A and B.

    Raises:
        UserError: users that disagree: the sites, the largest difference and where it is.
    """
    bank: dict[str, tuple[Tensor, str]] = {}
    wrong: list[tuple[float, str, str, str]] = []
    for entry in plan.entries:
        site = entry.site.name
        for side, name, matrix in zip("AB", (entry.a, entry.b), pairs[site], strict=True):
            first, owner = bank.setdefault(name, (matrix, site))
            if not torch.equal(first, matrix):
                wrong.append((float((first.float() - matrix.float()).abs().max()), side, site, owner))
    if wrong:
        raise _disagreement(wrong, len(plan.entries))
    return {name: matrix.float().contiguous() for name, (matrix, _) in bank.items()}


def _disagreement(wrong: Sequence[tuple[float, str, str, str]], total: int) -> UserError:
    largest, side, site, owner = max(wrong)
    names = list(dict.fromkeys(site for _, _, site, _ in wrong))
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return UserError(
        f"the matrices do not agree with the plan at {len(names)} of {total} sites ({shown}); the largest difference, "
        f"{largest:.3g}, is between the {side} of {site} and that of {owner}; an import changes no matrix: "
        "choose --share none, or the plan that they were trained with"
    )


def write_adapter(
    folder: Path, bank: Mapping[str, Tensor], heads: Mapping[str, Tensor], config: ShareLoraConfig
) -> None:
    """Write a compact adapter into a folder.

    Args:
        folder: exists.
        bank: matrix name -> tensor.
        heads: what is saved beside them, under its names in the file.
        config: with its plan.
    """
    tensors = {BANK_PREFIX + name: matrix for name, matrix in bank.items()}
    save_file({**tensors, **heads}, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def import_lora(
    source: str | Path,
    out_folder: str | Path,
    sharing: SharingRule | Mapping[str, Any],
    base: str | Path | None = None,
    alpha: float | None = None,
    enable_lora: Enable | None = None,
) -> Imported:
    """Write a plain LoRA as a compact adapter, if its matrices already agree with a plan; none is changed.

    Args:
        source: a PEFT LoRA folder, or a flat loralib file (safetensors, or pickled tensors).
        out_folder: a folder that does not exist yet.
        sharing: a rule, or a plan written by hand.
        base: folder, hub id or known name of the base model; None takes the one that the source names. Only its
            configuration is read.
        alpha: of a loralib file, which does not say it.
        enable_lora: fused modules and their enabled slices, as loralib's MergedLinear has them.

    Raises:
        UserError: a source that cannot be read, is of another model, or whose matrices disagree with the plan.
    """
    opened = open_source(source, base, alpha)
    found = opened.source
    enable = enable_lora or {}
    config = ShareLoraConfig(
        **opened.settings,
        **rank_settings(source_ranks(found, enable), found.scalings),
        **(rule_fields(sharing) if isinstance(sharing, SharingRule) else {"share_plan": dict(sharing)}),
        enable_lora={name: list(flags) for name, flags in enable.items()} or None,
    )
    config = planned(opened.model, config)
    plan = SharingPlan.from_json(config.plan or {})
    bank = collect(plan, matrices_by_site(found, plan))
    with new_folder(out_folder) as folder:
        write_adapter(folder, bank, opened.heads, config)
    return Imported(Path(out_folder), len(plan.entries), plan.num_parameters, opened.left_out)


# A plain LoRA per site: what is to be compressed.


@dataclass(frozen=True)
class Given:
    """The LoRA to be compressed, per site.

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
        """Return what a site's squared error counts: its scaling squared."""
        return self.scalings[site.path] ** 2

    def product(self, site: Site) -> Product:
        """Return a site's B A in fp64, without its scaling."""
        a, b = self.pairs[site.name]
        return Product(b.double(), a.double())


def read_given(opened: Opened, enable: Enable) -> Given:
    """Cut a LoRA into its sites.

    Raises:
        UserError: it is of another model, or every change is zero.
    """
    source = opened.source
    modules = [(path, module) for path, module in opened.model.named_modules() if path in source.pairs]
    strange = sorted(source.pairs.keys() - dict(modules).keys())
    if strange:
        raise UserError(
            f"{len(strange)} modules are only in the source, first {strange[0]}; give the source's own --base"
        )
    ranks = source_ranks(source, enable)
    plan = SharingPlan.build(sites_of(modules, enable), SharingRule(), r=1, rank_pattern=ranks)
    pairs = matrices_by_site(source, plan)
    if not any(bool(a.any()) and bool(b.any()) for a, b in pairs.values()):
        raise UserError(f"{source.name} changes nothing: every B A is zero; need a trained adapter; train it first")
    return Given(plan, pairs, source.scalings)
