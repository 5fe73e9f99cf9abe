"""A saved adapter as data: its configuration, plan and tensors, without a base model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from torch import Tensor

from sharelora.models.adapter import resolve_adapter
from sharelora.models.tensors import load_tensors
from sharelora.plan.plan import SharingPlan
from sharelora.plan.site import Site
from sharelora.support.errors import UserError
from sharelora.tuner.files import CONFIG_FILE, WEIGHTS_FILE, check_weights, read_config, verify_weights
from sharelora.tuner.finite import require_finite
from sharelora.tuner.model import BANK
from sharelora.tuner.patterns import patterns_of, require_quick
from sharelora.tuner.register import NAME

# In front of the names in an adapter's file: of matrices in the bank, and of whatever belongs to modules of the base.
BANK_PREFIX = f"base_model.{BANK}."
MODEL_PREFIX = "base_model.model."
MAGNITUDE = ".lora_magnitude_vector"
_LEAST = {"r": 1}
BASE_LAYER = ".base_layer."  # of what an adapted module holds inside


def pattern_value(config: Mapping[str, Any], name: str, pattern: str, path: str) -> float:
    """Return a setting of one module by PEFT's rule: from the pattern if a key of it matches, else the common one.

    Raises:
        UserError: it is no number, or a rank below 1.
    """
    values = config.get(pattern) or {}
    value: Any = values.get(get_pattern_key(list(values), path), config.get(name))
    number = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else value
    if not math.isfinite(number) or number < _LEAST.get(name, -math.inf):
        raise UserError(f"found {name} {value} for {path} in {CONFIG_FILE}; need a number; copy the adapter again")
    return number


@dataclass(frozen=True)
class Adapter:
    """A compact adapter, read from its folder.

    Attributes:
        folder: of the adapter.
        config: adapter_config.json.
        plan: which site uses which matrices.
        matrices: matrix name -> tensor, each once.
        others: name in the file -> other tensors: heads, biases, DoRA's magnitudes.
    """

    folder: Path
    config: dict[str, Any]
    plan: SharingPlan
    matrices: dict[str, Tensor]
    others: dict[str, Tensor]

    def scaling(self, path: str) -> float:
        """Return alpha / r (rsLoRA: alpha / sqrt(r)) of a module, by the rules of PEFT."""
        alpha = pattern_value(self.config, "lora_alpha", "alpha_pattern", self.plan.owner(path))
        entries = self.plan.by_path[path]
        rank, count = sum(entry.r for entry in entries), len(entries)
        # A fused module is one LoRA of its slices' summed rank, scaled as one slice is.
        return math.sqrt(count / rank) * alpha if self.config.get("use_rslora") else count * alpha / rank

    def pair(self, path: str) -> tuple[Tensor, Tensor]:
        """Return a module's A, (r, D_in), and B, (D_out, r), in fp32 and without scaling.

        Those of a fused module hold all its slices: the As one below the other, the Bs as blocks. A convolution is the
        linear map of all that its kernel covers: its A is (r, D_in * positions of the kernel), and with groups its B
        (D_out, r / groups).
        """
        entries = self.plan.by_path[path]
        a = torch.cat([self.matrices[entry.a].float().flatten(1) for entry in entries])
        site = entries[0].site
        if site.part is None:
            return a, self.matrices[entries[0].b].float().flatten(1)
        b = torch.zeros(site.outputs, a.shape[0])
        column = 0
        for entry in entries:
            b[entry.site.indices, column : column + entry.r] = self.matrices[entry.b].float()
            column += entry.r
        return a, b

    def refuse_groups(self, what: str) -> None:
        """Refuse an adapter of convolutions in groups.

        Args:
            what: cannot be done with it, and why.

        Raises:
            UserError: it has one.
        """
        grouped = next((entry.site for entry in self.plan.entries if entry.site.groups > 1), None)
        if grouped is not None:
            raise UserError(
                f"{self.folder} adapts {grouped.path}, a convolution of {grouped.groups} groups, which cannot be "
                f"{what}; use the adapter as it is, or leave out the module"
            )

    def magnitude(self, path: str) -> Tensor | None:
        """Return DoRA's magnitude of a module, (D_out,), or None without DoRA."""
        magnitude = self.others.get(f"{MODEL_PREFIX}{path}{MAGNITUDE}")
        return None if magnitude is None else magnitude.flatten()

    def heads(self) -> dict[str, Tensor]:
        """Return weights of the base that were trained too: name in the base -> tensor.

        PEFT saves the frozen weight of an adapted embedding as well, which is none of them.
        """
        frozen = {f"{MODEL_PREFIX}{path}{BASE_LAYER}weight" for path in self.plan.by_path}
        return {
            name.removeprefix(MODEL_PREFIX).replace(BASE_LAYER, "."): tensor
            for name, tensor in self.others.items()
            if not name.endswith(MAGNITUDE) and name not in frozen
        }


def with_kernel(site: Site, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Give flat matrices the shapes in which PEFT keeps them: the kernel of a convolution has its own dimensions.

    Args:
        site: whose matrices they are.
        a: (r, D_in * positions of the kernel).
        b: (D_out, r / groups).
    """
    return a.reshape(a.shape[0], -1, *site.kernel), b.reshape(*b.shape, *(1 for _ in site.kernel))


def read_adapter(name_or_path: str | Path) -> Adapter:
    """Read a compact adapter and prove that it is complete: checksum, names and shapes against its plan.

    Raises:
        UserError: no adapter there, one of another kind, or one that was truncated or altered; it holds no numbers, or
            ranks that contradict the matrices.
    """
    folder = resolve_adapter(name_or_path)
    config = read_config(folder)
    if config.get("peft_type") != NAME:
        raise UserError(
            f"{folder} is an adapter of type {config.get('peft_type')!r}; need a ShareLoRA one; "
            "`sharelora import` takes over plain LoRA"
        )
    if not config.get("plan"):
        raise UserError(f"{folder} has no plan in {CONFIG_FILE}; need one; load the adapter on its base and save it")
    verify_weights(folder, config.get("weights_sha256"))
    check_weights(folder, config)
    plan, tensors = SharingPlan.from_json(config["plan"]), load_tensors(folder / WEIGHTS_FILE)
    matrices = {name.removeprefix(BANK_PREFIX): t for name, t in tensors.items() if name.startswith(BANK_PREFIX)}
    difference = plan.difference({name: tuple(tensor.shape) for name, tensor in matrices.items()})
    if difference:
        raise UserError(f"{folder} does not hold the matrices of its plan: {difference}; copy the folder again")
    require_quick(patterns_of(config), plan.by_path, folder / CONFIG_FILE)
    for path, entries in plan.by_path.items() if config.get("share_plan") is None else ():
        require_rank(folder, config, plan.owner(path), entries[0].r)
    others = {name: tensor for name, tensor in tensors.items() if not name.startswith(BANK_PREFIX)}
    adapter = Adapter(folder, config, plan, matrices, others)
    require_numbers(tensors, {path: adapter.scaling(path) for path in plan.by_path}, folder)
    return adapter


def require_numbers(tensors: Mapping[str, Tensor], scalings: Mapping[str, float], where: object) -> None:
    """Refuse to convert weights or scalings that are no finite numbers.

    Args:
        tensors: name in the file -> tensor.
        scalings: module path -> the factor of B A.
        where: they were read from.

    Raises:
        UserError: one is not.
    """
    require_finite(tensors, where, "nothing can be made of them; use an earlier checkpoint, or train again")
    bad = next((path for path, value in scalings.items() if not math.isfinite(value)), None)
    if bad is not None:
        raise UserError(f"found the scaling {scalings[bad]} of {bad} in {where}; need a number; give another alpha")


def require_rank(folder: Path, config: Mapping[str, Any], path: str, rank: int) -> None:
    """Refuse an adapter whose configuration says another rank of a module than its matrices have.

    Args:
        folder: of the adapter.
        config: its configuration.
        path: of the module that is adapted.
        rank: of its matrices.

    Raises:
        UserError: it does.
    """
    said = pattern_value(config, "r", "rank_pattern", path)
    if said != rank:
        raise UserError(
            f"{folder / CONFIG_FILE} says rank {said} for {path}, whose matrices have rank {rank}; need both from one "
            "adapter; copy the folder again"
        )
