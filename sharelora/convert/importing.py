"""Import of a plain LoRA whose matrices already agree with a sharing plan."""

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

from sharelora.convert.adapter_file import BANK_PREFIX
from sharelora.convert.sources import EnableLora, PlainLora, open_lora
from sharelora.plan.plan import Entry, SharingPlan
from sharelora.plan.rule import SharingRule, rule_fields
from sharelora.plan.site import ends_with
from sharelora.support.errors import UserError
from sharelora.support.folders import new_folder, writing
from sharelora.tuner.config import ShareLoraConfig
from sharelora.tuner.files import CONFIG_FILE, WEIGHTS_FILE
from sharelora.tuner.finite import require_finite


@dataclass(frozen=True)
class Imported:
    """What was written: the folder, sites, elements of all matrices, and weights of the base that were left out."""

    folder: Path
    sites: int
    elements: int
    left_out: int


def import_lora(
    source: str | Path,
    out_folder: str | Path,
    sharing: SharingRule | Mapping[str, Any],
    base: str | Path | None = None,
    alpha: float | None = None,
    enable_lora: EnableLora | None = None,
) -> Imported:
    """Write a plain LoRA as a compact adapter, if its matrices already agree with a plan; none is changed.

    Args:
        source: a PEFT LoRA folder, or a flat loralib file (safetensors, or pickled tensors).
        out_folder: a folder that does not exist yet, or is empty.
        sharing: a rule, or a hand-written plan.
        base: folder, hub id or known name of the base model; None takes the one that the source names. Only its
            configuration is read.
        alpha: of a loralib file, which does not say it.
        enable_lora: fused modules and their enabled slices, as loralib's MergedLinear has them.

    Raises:
        UserError: a source that cannot be read, is of another model, or whose matrices disagree with the plan.
    """
    with new_folder(out_folder, CONFIG_FILE) as folder:
        opened = open_lora(source, base, alpha)
        lora, enable_lora = opened.lora, enable_lora or {}
        config = ShareLoraConfig(
            **opened.settings,
            **rank_settings(ranks_of(lora, enable_lora), lora.scalings),
            **(rule_fields(sharing) if isinstance(sharing, SharingRule) else {"share_plan": dict(sharing)}),
            enable_lora={name: list(flags) for name, flags in enable_lora.items()} or None,
        )
        config = planned(opened.base, config)
        plan = SharingPlan.from_json(config.plan or {})
        bank = collect(plan, pairs_by_site(lora, plan))
        write_adapter(folder, bank, opened.heads, config)
    return Imported(Path(out_folder), len(plan.entries), plan.num_parameters, opened.left_out)


def ranks_of(lora: PlainLora, enable_lora: EnableLora) -> dict[str, int]:
    """Return the rank of every module's sites; its A has a row per rank of every slice.

    Args:
        lora: whose ranks.
        enable_lora: fused modules and their enabled slices.
    """
    ranks = {}
    for path, (a, _) in lora.pairs.items():
        slices = next((sum(flags) for name, flags in enable_lora.items() if ends_with(path, name)), 1)
        ranks[path] = a.shape[0] // slices
    return ranks


def rank_settings(ranks: Mapping[str, int], scalings: Mapping[str, float]) -> dict[str, Any]:
    """Return ranks and alphas as settings that give these scalings: the most common ones, and exceptions.

    Args:
        ranks: module path -> rank of each of its sites.
        scalings: module path -> the factor of B A.
    """
    alphas: dict[str, float] = {}
    for path, rank in ranks.items():
        # alpha / r * r need not give alpha again; most alphas are integers, and written as such.
        alpha = round(scalings[path] * rank, 9)
        alphas[path] = int(alpha) if float(alpha).is_integer() else alpha
    r, lora_alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "r": r,
        "lora_alpha": lora_alpha,
        "rank_pattern": {path: rank for path, rank in ranks.items() if rank != r},
        "alpha_pattern": {path: alpha for path, alpha in alphas.items() if alpha != lora_alpha},
    }


def planned(base: nn.Module, config: ShareLoraConfig) -> ShareLoraConfig:
    """Inject the adapter on the meta device, so that the plan is the one that loading will make."""
    # Heads and the task change nothing in the plan, and the class of the base here need not have them.
    heads, tokens, task = config.modules_to_save, config.trainable_token_indices, config.task_type
    config.modules_to_save = config.trainable_token_indices = config.task_type = None
    trained_on = config.trained_on
    # PEFT takes the base's name from here, and warns where it finds another.
    cast(Any, base).name_or_path = config.base_model_name_or_path
    with torch.device("meta"), warnings.catch_warnings():
        # PEFT asks models for an attribute that transformers has renamed since.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        injected: Any = get_peft_model(base, config, low_cpu_mem_usage=True).peft_config["default"]
    injected.modules_to_save, injected.trainable_token_indices, injected.task_type = heads, tokens, task
    # The precision of the base that the source names, if it does, not that of this one.
    injected.trained_on, injected.inference_mode = trained_on, True
    return injected


def pairs_by_site(lora: PlainLora, plan: SharingPlan) -> dict[str, tuple[Tensor, Tensor]]:
    """Return a LoRA's matrices per site: site's name -> A, (r, D_in), and B, (D_out, r).

    Raises:
        UserError: modules that only the source or only the plan has, or matrices of other shapes.
    """
    strange = sorted(lora.pairs.keys() ^ plan.by_path.keys())
    if strange:
        where = "the source" if strange[0] in lora.pairs else "the base model"
        raise UserError(f"{len(strange)} modules are only in {where}, first {strange[0]}; give the source's own --base")
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for path, entries in plan.by_path.items():
        a, b = lora.pairs[path]
        slices = _slices(entries, a, b)
        if not slices:
            need = ", ".join(
                f"{entry.site.name}: {' and '.join(map(str, entry.shapes().values()))}" for entry in entries
            )
            raise UserError(
                f"{path} has A {tuple(a.shape)} and B {tuple(b.shape)}; need {need}; "
                "give the source's own --base, and --enable_lora for a fused module"
            )
        pairs |= {entry.site.name: pair for entry, pair in zip(entries, slices, strict=True)}
    return pairs


def _slices(entries: tuple[Entry, ...], a: Tensor, b: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Cut the A and B of a module into those of its sites; empty if they do not fit.

    The B of PEFT has a block of rows and columns per slice; that of loralib has the blocks of the enabled slices one
    below the other.
    """
    ranks, site = [entry.r for entry in entries], entries[0].site
    if site.part is None:
        return [(a, b)] if (tuple(a.shape), tuple(b.shape)) == site.shapes(ranks[0]) else []
    if a.shape != (sum(ranks), site.d_in):
        return []
    if b.shape == (sum(entry.site.d_out for entry in entries), ranks[0]) and not any(e.site.rows for e in entries):
        return list(zip(a.split(ranks), b.split(site.d_out), strict=True))
    if b.shape != (site.outputs, sum(ranks)):
        return []
    rest, slices, column = b.clone(), [], 0
    for entry in entries:
        rows, columns = entry.site.indices, slice(column, column + entry.r)
        slices.append((a[columns], b[rows, columns]))
        rest[rows, columns] = 0
        column += entry.r
    # An ordinary LoRA of the whole fused module mixes its slices, which separate sites cannot express.
    return [] if bool(rest.any()) else slices


def collect(plan: SharingPlan, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return every matrix of a plan once, in fp32; all its users must have the same.

    Args:
        plan: which site uses which matrices.
        pairs: site's name -> A and B.

    Raises:
        UserError: users disagree; the message has the sites and the largest difference.
    """
    bank: dict[str, tuple[Tensor, str]] = {}
    disagreements: list[tuple[float, str, str, str]] = []
    for entry in plan.entries:
        site = entry.site.name
        for side, name, matrix in zip("AB", (entry.a, entry.b), pairs[site], strict=True):
            first, owner = bank.setdefault(name, (matrix, site))
            if not torch.equal(first, matrix):
                largest = float((first.float() - matrix.float()).abs().max())
                disagreements.append((largest, side, site, owner))
    if disagreements:
        raise _disagreement(disagreements, len(plan.entries))
    return {name: matrix.float().contiguous() for name, (matrix, _) in bank.items()}


def _disagreement(disagreements: Sequence[tuple[float, str, str, str]], total: int) -> UserError:
    largest, side, site, owner = max(disagreements)
    names = list(dict.fromkeys(site for _, _, site, _ in disagreements))
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
        folder: the hidden one of a new folder.
        bank: matrix name -> tensor.
        heads: other trained weights, under their names in the file.
        config: with its plan.

    Raises:
        UserError: a tensor has NaN or infinite numbers.
    """
    tensors = {**{BANK_PREFIX + name: matrix for name, matrix in bank.items()}, **heads}
    require_finite(tensors, "what was made of it", "nothing is written; train or convert the source again")
    with writing(folder.parent):
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config.save_pretrained(str(folder))
