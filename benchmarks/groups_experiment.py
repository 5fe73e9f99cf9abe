"""The comparison of layer groups as data: ways to use similar layers, budget, and the command lines that follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from sharelora.layer_groups import Grouping, GroupingSettings, Similarity, expanded_rank

SEARCH, MAIN = "search", "main"
# A seed that no compared run has: the rate must not be chosen on one of their draws.
SEARCH_SEED = 1000
RANK = 8
# The modules and the rank of the second ShareLoRA paper.
MODULES = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
RECIPE: Mapping[str, str] = {
    "dataset": "alpaca",
    "bits": "16",
    "use_cpu": "true",
    "optim": "adamw_torch",
    "lora_dropout": "0.05",
    "per_device_train_batch_size": "4",
    "per_device_eval_batch_size": "8",
    "gradient_accumulation_steps": "1",
    "gradient_checkpointing": "false",
    "source_max_len": "256",
    "target_max_len": "128",
    "do_eval": "true",
    "eval_strategy": "no",
    "save_strategy": "no",
}


@dataclass(frozen=True)
class Way:
    """One way to use what is known about the layers.

    Attributes:
        title: for tables.
        flags: what differs from the others, for `qlora_share.py`.
    """

    title: str
    flags: Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """One training: its phase, way, seed and learning rate."""

    phase: str
    way: str
    seed: int
    rate: float

    @property
    def name(self) -> str:
        """Where it lies below the folder of all runs."""
        return f"{self.phase}/{self.way}_seed{self.seed}_lr{self.rate:g}"


def ways(similarity: Similarity, file: Path, threshold: float) -> dict[str, Way]:
    """Return the ways that are compared.

    Args:
        similarity: of the model's layers.
        file: where it is saved.
        threshold: of cosine similarity, for all groups.

    Raises:
        UserError: no two layers reach the threshold.
    """
    best = GroupingSettings("optimal", threshold).apply(similarity)
    groups = {"share": "ab", "share_groups": str(file), "similarity_threshold": f"{threshold:g}"}
    smaller = max(1, round(RANK * best.distinct / best.layers))
    wider = expanded_rank(best, RANK, "text")
    return {
        "lora": Way(f"LoRA, r {RANK}", {"share": "none"}),
        "odd_even": Way("pairs of layers", {"share": "ab", "share_groups": "odd_even"}),
        "greedy": Way("groups by Algorithm 1", {**groups, "grouping": "greedy"}),
        "strict": Way("groups, strict", {**groups, "grouping": "strict"}),
        "optimal": Way("groups, optimal", {**groups, "grouping": "optimal"}),
        "apart": Way("groups of layers far apart", {"share": "ab", "share_groups": _apart(best)}),
        "dropped": Way("one adapted layer of each optimal group", {"share": "none", "lora_modules": _kept(best)}),
        "lora_small": Way(f"LoRA, r {smaller}", {"share": "none", **_rank(smaller)}),
        "optimal_wide": Way(
            f"groups, optimal, r {wider}",
            {**groups, "grouping": "optimal", "expand_rank": "text", "lora_alpha": str(2 * wider)},
        ),
        "share_a": Way(f"ShareA, r {RANK}", {"share": "a"}),
    }


def _rank(rank: int) -> dict[str, str]:
    # What an adapter adds is scaled by alpha / r, which is to be the same for all.
    return {"lora_r": str(rank), "lora_alpha": str(2 * rank)}


def _apart(grouping: Grouping) -> str:
    """Return as many groups as there are distinct layers, of layers that are no neighbours: the control."""
    count = grouping.distinct
    groups = [range(first, grouping.layers, count) for first in range(count)]
    return ";".join(",".join(map(str, group)) for group in groups if len(group) > 1)


def _kept(grouping: Grouping) -> str:
    """Return the modules of all layers but those that are in a group and not its first."""
    dropped = {layer for group in grouping.groups for layer in group[1:]}
    kept = [layer for layer in range(grouping.layers) if layer not in dropped]
    blocks = {"q_proj": "self_attn", "k_proj": "self_attn", "v_proj": "self_attn", "up_proj": "mlp", "down_proj": "mlp"}
    return ",".join(f"layers.{layer}.{blocks[name]}.{name}" for layer in kept for name in MODULES)


@dataclass(frozen=True)
class Experiment:
    """Everything that decides the numbers.

    Attributes:
        model: folder of the pre-trained LLaMA; None stands for the small one that the project makes, and its data.
        threshold: of cosine similarity.
        thresholds: those of which the groups are shown.
        texts: on which similarity is measured.
        updates: of a run; the search's are as long as the compared ones, since shorter ones prefer rates that are too
            large for them.
        rates: the learning rates that are tried for every way.
        seeds: of the compared runs.
        held_out: rows on which the loss is measured.
    """

    model: str | None
    threshold: float
    thresholds: tuple[float, ...]
    texts: int = 256
    updates: int = 80
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    seeds: tuple[int, ...] = (0, 1, 2)
    held_out: int = 96

    def search(self, names: Mapping[str, Way]) -> list[Run]:
        """Return the runs of the search."""
        return [Run(SEARCH, way, SEARCH_SEED, rate) for rate, way in product(self.rates, names)]

    def main(self, rates: Mapping[str, float]) -> list[Run]:
        """Return the compared runs, seed by seed, so that a part of them is balanced.

        Args:
            rates: way -> the learning rate that the search chose.
        """
        return [Run(MAIN, way, seed, rate) for seed, (way, rate) in product(self.seeds, rates.items())]

    def words(self, run: Run, way: Way, folder: Path) -> list[str]:
        """Return the command line of `qlora_share.py` for a run."""
        flags = {
            **({"tiny": "true"} if self.model is None else {"model_name_or_path": self.model}),
            **RECIPE,
            "lora_modules": ",".join(MODULES),
            **_rank(RANK),
            "learning_rate": f"{run.rate:g}",
            "max_steps": str(self.updates),
            "logging_steps": str(max(1, self.updates // 4)),
            "max_eval_samples": str(self.held_out),
            "seed": str(run.seed),
            "output_dir": str(folder),
            **way.flags,
        }
        return [word for name, value in flags.items() for word in (f"--{name}", value)]

    def data(self) -> dict[str, Any]:
        """Return the fields as JSON data; the model by its folder's name, which says what is in it."""
        return {**asdict(self), "model": self.model and Path(self.model).name}


def quick(experiment: Experiment) -> Experiment:
    """Return the same in small, to see that everything works: the project's own model and data."""
    small = replace(experiment, updates=3, rates=(1e-3,), seeds=experiment.seeds[:2])
    return replace(small, model=None, texts=16, held_out=8)
