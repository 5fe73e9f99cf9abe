"""Take over a plain LoRA whose matrices already agree with a sharing plan."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn

from sharelora.architectures import is_encoder, meta_classifier, meta_model, model_config
from sharelora.checkpoint.folder import BANK_PREFIX, MODEL_PREFIX, new_folder
from sharelora.checkpoint.sources import Source, read_source
from sharelora.config import WEIGHTS_FILE, ShareLoraConfig
from sharelora.errors import UserError
from sharelora.plan import Entry, SharingPlan
from sharelora.rules import SharingRule
from sharelora.share_flags import rule_fields

logger = logging.getLogger(__name__)

Enable = Mapping[str, Sequence[bool]]
POOLER = "pooler"  # BERT's lies inside the backbone and trains with the head


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


def rank_settings(source: Source, enable: Enable) -> dict[str, Any]:
    """Return ranks and alphas as settings that give the source's scalings: the most common ones, and exceptions.

    Args:
        source: its As have a row per rank of every slice.
        enable: fused modules and their enabled slices.
    """
    ranks = {path: a.shape[0] // _slice_count(path, enable) for path, (a, _) in source.pairs.items()}
    alphas = {path: _plain(round(source.scalings[path] * rank, 9)) for path, rank in ranks.items()}
    # In a PEFT folder a fused module has the rank of all its slices together, and its scaling with it.
    r, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "r": r,
        "lora_alpha": alpha,
        "rank_pattern": {path: rank for path, rank in ranks.items() if rank != r},
        "alpha_pattern": {path: own for path, own in alphas.items() if own != alpha},
    }


def _planned(base: nn.Module, config: ShareLoraConfig) -> ShareLoraConfig:
    """Inject the adapter on the meta device, so that the plan is the one that loading will make."""
    # Heads and the task change nothing in the plan, and the base's class here need not have them.
    heads, task = config.modules_to_save, config.task_type
    config.modules_to_save = config.task_type = None
    with torch.device("meta"):
        done: Any = get_peft_model(base, config, low_cpu_mem_usage=True).peft_config["default"]
    done.modules_to_save, done.task_type = heads, task
    # What the source was trained on is not known.
    done.trained_on, done.inference_mode = None, True
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


def _heads(source: Source, base: Any) -> tuple[dict[str, Tensor], list[str]]:
    """Return trained weights beside the adapter, and the names of the base's frozen ones in a whole state dict."""
    if source.complete:
        return source.others, []
    output = getattr(base, "get_output_embeddings", lambda: None)()
    frozen = {name for name, module in base.named_modules() if module is output}
    backbone = {name for name in base.state_dict() if name.startswith(f"{base.base_model_prefix}.")}
    outside = {name for name in base.state_dict().keys() - backbone if name.rpartition(".")[0] not in frozen}
    pooler = {name for name in backbone if name.startswith(f"{base.base_model_prefix}.{POOLER}.")}
    # A pooler that stands there without the rest of the backbone was trained with the head.
    whole = any(name.removeprefix(MODEL_PREFIX) in backbone - pooler for name in source.others)
    own = outside if whole else outside | pooler
    heads = {name: value for name, value in source.others.items() if name.removeprefix(MODEL_PREFIX) in own}
    return heads, sorted(source.others.keys() - heads.keys())


def _head_settings(source: Source, heads: Mapping[str, Tensor], base: Any) -> dict[str, Any]:
    if source.complete or not heads:
        return {}
    pooler = f"{base.base_model_prefix}.{POOLER}"
    names = [name.removeprefix(MODEL_PREFIX) for name in heads]
    modules = {pooler if name.startswith(f"{pooler}.") else name.split(".")[0] for name in names}
    return {"modules_to_save": sorted(modules), "task_type": "SEQ_CLS"}


def _base_model(source: Source, name: str) -> Any:
    """Build the base on the meta device: as it was published, or as the classifier that the source was trained in."""
    model = meta_model(name)
    modules, weights = {path for path, _ in model.named_modules()}, model.state_dict()
    others = {other.removeprefix(MODEL_PREFIX) for other in source.others}
    if source.pairs.keys() <= modules and others <= weights.keys():
        return model
    config = model_config(name)
    return meta_classifier(config) if is_encoder(config) else model


def _base_name(source: Source, base: str | Path | None) -> str:
    name = base or source.settings.get("base_model_name_or_path")
    if not name:
        raise UserError(f"{source.name} does not name its base model; need it for the order of modules; give --base")
    return str(name)


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
    found = read_source(source, alpha)
    name = _base_name(found, base)
    model = _base_model(found, name)
    heads, left_out = _heads(found, model)
    if left_out:
        logger.warning("%s also holds %d weights of the frozen base, which are left out", source, len(left_out))
    settings = {"base_model_name_or_path": name, **found.settings, **_head_settings(found, heads, model)}
    enable = enable_lora or {}
    config = ShareLoraConfig(
        **settings,
        **rank_settings(found, enable),
        **(rule_fields(sharing) if isinstance(sharing, SharingRule) else {"share_plan": dict(sharing)}),
        enable_lora={name: list(flags) for name, flags in enable.items()} or None,
    )
    config = _planned(model, config)
    plan = SharingPlan.from_json(config.plan or {})
    bank = collect(plan, matrices_by_site(found, plan))
    with new_folder(out_folder) as folder:
        tensors = {BANK_PREFIX + name: matrix for name, matrix in bank.items()}
        save_file({**tensors, **heads}, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        config.save_pretrained(str(folder))
    return Imported(Path(out_folder), len(plan.entries), plan.num_parameters, len(left_out))
