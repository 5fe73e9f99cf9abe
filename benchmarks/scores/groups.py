"""The comparison of layer groups: ways to use similar layers, budget, the runs, and how one is done and read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.harness.command import flag_words
from benchmarks.harness.experiment import MAIN, SEARCH, SEARCH_SEED, Arm, Experiment, Outcomes, Run
from sharelora.layer_groups import FILE, Grouping, GroupingSettings, Similarity, expanded_rank, read_similarity
from sharelora.reporting.results import read_result

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
        "dropped": Way(
            "one adapted layer of each optimal group", {"share": "none", "lora_modules": _first_layers(best)}
        ),
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
    """Return as many groups as there are distinct layers, none of which are neighbours: the control."""
    count = grouping.distinct
    groups = [range(first, grouping.layers, count) for first in range(count)]
    return ";".join(",".join(map(str, group)) for group in groups if len(group) > 1)


def _first_layers(grouping: Grouping) -> str:
    """Return the modules of all layers except those that are in a group and not its first."""
    dropped = {layer for group in grouping.groups for layer in group[1:]}
    adapted = [layer for layer in range(grouping.layers) if layer not in dropped]
    blocks = {"q_proj": "self_attn", "k_proj": "self_attn", "v_proj": "self_attn", "up_proj": "mlp", "down_proj": "mlp"}
    return ",".join(f"layers.{layer}.{blocks[name]}.{name}" for layer in adapted for name in MODULES)


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        before: loss on the held-out rows before training, in nats per answer token.
        loss: the same after the last update.
        trainable: trained parameters.
        bytes: of the adapter's file.
        seconds: of training only.
    """

    before: float
    loss: float
    trainable: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class GroupsExperiment(Experiment[Outcome]):
    """The comparison of layer groups.

    Attributes:
        model: folder of the pre-trained LLaMA; None for the small one that the project makes, and its data.
        threshold: of cosine similarity.
        thresholds: those whose groups are shown.
        texts: on which similarity is measured.
        updates: of a run; the search's are as long as the compared ones, since shorter ones prefer rates that are too
            large for them.
        rates: the learning rates that are tried for every way.
        seeds: of the compared runs.
        held_out: rows on which the loss is measured.
        ways: what is compared; they follow from the similarity that is measured, see `ways`.
    """

    open_ended: ClassVar[tuple[str, ...]] = ("seeds", "rates", "thresholds")

    model: str | None
    threshold: float
    thresholds: tuple[float, ...]
    texts: int = 256
    updates: int = 80
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    seeds: tuple[int, ...] = (0, 1, 2)
    held_out: int = 96
    ways: Mapping[str, Way] = field(default_factory=dict)

    def search(self) -> list[Run]:
        """Return the runs of the search."""
        return [Run(SEARCH, way, SEARCH_SEED, rate) for rate, way in product(self.rates, self.ways)]

    def main(self, rates: Mapping[Arm, float]) -> list[Run]:
        """Return the compared runs, seed by seed."""
        return [Run(MAIN, str(way), seed, rate) for seed, (way, rate) in product(self.seeds, rates.items())]

    def data(self) -> dict[str, Any]:
        """Return the fields as JSON data; the model by its folder's name, which says what is in it."""
        fields = {**asdict(self), "model": self.model and Path(self.model).name}
        # They follow from the model, the threshold and the texts.
        del fields["ways"]
        return fields

    def flags(self, run: Run, folder: Path) -> list[str]:
        """Return the command line of `qlora_share.py` for a run."""
        return flag_words(
            {
                **({"tiny": "true"} if self.model is None else {"model_name_or_path": self.model}),
                **RECIPE,
                "lora_modules": ",".join(MODULES),
                **_rank(RANK),
                "learning_rate": f"{run.rate:g}",
                "max_steps": self.updates,
                "logging_steps": max(1, self.updates // 4),
                "max_eval_samples": self.held_out,
                "seed": run.seed,
                "output_dir": folder,
                **self.ways[run.method].flags,
            }
        )

    def execute(self, run: Run, folder: Path) -> None:
        """Train a run."""
        train(self, run, folder)

    def outcome(self, run: Run, folder: Path) -> Outcome:
        """Read a run that has ended."""
        result = read_result(folder / "result.json")
        return Outcome(
            result.metrics["eval_loss_before"],
            result.metrics["eval_loss"],
            result.plan["trainable"],
            result.adapter["bytes"],
            result.metrics["train_runtime"],
        )

    def losses(self, run: Run, outcome: Outcome) -> tuple[float, ...]:
        """Return the held-out loss."""
        return (outcome.loss,)


@dataclass(frozen=True)
class Compared:
    """All that was measured.

    Attributes:
        experiment: with the ways that were compared.
        similarity: of the model's layers.
        searched: what the search for learning rates came to.
        outcomes: what the compared runs came to.
    """

    experiment: GroupsExperiment
    similarity: Similarity
    searched: Outcomes[Outcome]
    outcomes: Outcomes[Outcome]


def train(experiment: GroupsExperiment, run: Run, folder: Path) -> None:
    """Train a run with the main job."""
    # Only in a worker process: it loads torch and PEFT.
    from sharelora.training.instructions.job import parse
    from sharelora.training.instructions.job import run as train_job

    train_job(parse(experiment.flags(run, folder)))


def ensure_similarity(experiment: GroupsExperiment, root: Path) -> Similarity:
    """Measure how similar the model's layers are on Alpaca rows, with `sharelora similarity`, unless that was done.

    Raises:
        UserError: no model, or no data.
    """
    from sharelora.cli import similarity
    from sharelora.flags.parser import Parser

    if not (root / FILE).is_file():
        model = ["--tiny"] if experiment.model is None else ["--model", experiment.model]
        texts = ["--sample", "alpaca", "--limit", str(experiment.texts), "--output", str(root)]
        parser = Parser()
        similarity.add_similarity_flags(parser)
        similarity.run_similarity(parser.parse([*model, *texts, "--similarity_threshold", f"{experiment.threshold:g}"]))
    return read_similarity(root / FILE)


def quick(experiment: GroupsExperiment) -> GroupsExperiment:
    """Return the same in small, to see that everything works: the project's own model and data."""
    small = replace(experiment, updates=3, rates=(1e-3,), seeds=experiment.seeds[:2])
    return replace(small, model=None, texts=16, held_out=8)
