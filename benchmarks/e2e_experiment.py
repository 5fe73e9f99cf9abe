"""The E2E comparison as data: methods, budget, and the command lines that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from sharelora import UserError

TITLES: Mapping[str, str] = {"none": "LoRA", "a": "ShareA", "b": "ShareB", "ab": "ShareAB"}
BASE = "base"  # the model before tuning, scored once
METRICS = ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")
SEARCH, MAIN = "search", "main"
# A seed that no compared run has: the rate must not be chosen on one of their draws.
SEARCH_SEED = 1000
# LoRA's recipe for E2E but for the learning rate, the updates, the warm-up, the precision and what is adapted:
# a small model that has read only novels cannot learn E2E's texts by its queries and values alone.
RECIPE: Mapping[str, str] = {
    "train_data": "e2e",
    "train_batch_size": "8",
    "valid_batch_size": "32",
    "lora_modules": "c_attn,c_proj,c_fc",
    "lora_r": "16",
    "lora_alpha": "64",
    "lora_dropout": "0.1",
    "label_smooth": "0.1",
    "weight_decay": "0.01",
    "correct_bias": "true",
    "adam_beta2": "0.999",
    "scheduler": "linear",
    # Two thirds of the time, on a CPU that has bf16 products.
    "bf16": "true",
}
DECODING: Mapping[str, str] = {
    "data": "e2e",
    "split": "test",
    "beam": "10",
    "length_penalty": "0.8",
    "no_repeat_ngram_size": "4",
    "eval_len": "64",
}


@dataclass(frozen=True)
class Run:
    """One training with what follows it: its phase, sharing, seed and learning rate; `base` is not trained."""

    phase: str
    share: str
    seed: int
    rate: float

    @property
    def name(self) -> str:
        """Where it lies below the folder of all runs."""
        return f"{self.phase}/{self.share}_seed{self.seed}_lr{self.rate:g}"


@dataclass(frozen=True)
class Experiment:
    """Everything that decides the numbers.

    Attributes:
        model: folder of the pre-trained GPT-2; None stands for the small one that the project makes, and its data.
        updates: of a compared run; the schedule ends with the last one.
        search_updates: of a run of the search.
        rates: the learning rates that are tried for every way of sharing.
        shares: ways of sharing.
        seeds: of the compared runs.
        length: most tokens of a row, and of an input with its text when decoding.
        held_out: rows of the validation split that the loss is measured on.
        limit: inputs that are decoded; None for all.
        without: metrics that are left out.
        extra: more flags of the training, for all runs.
    """

    model: str | None
    updates: int = 800
    search_updates: int = 100
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    shares: tuple[str, ...] = tuple(TITLES)
    seeds: tuple[int, ...] = (0, 1, 2)
    length: int = 256
    held_out: int = 256
    limit: int | None = None
    without: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that are computed."""
        return tuple(name for name in METRICS if name.lower() not in self.without)

    def search(self) -> list[Run]:
        """Return the runs of the search."""
        return [Run(SEARCH, share, SEARCH_SEED, rate) for rate, share in product(self.rates, self.shares)]

    def main(self, rates: Mapping[str, float]) -> list[Run]:
        """Return the base and the compared runs, seed by seed, so that a part of them is balanced.

        Args:
            rates: way of sharing -> the learning rate that the search chose.
        """
        base = Run(MAIN, BASE, 0, 0.0)
        return [base, *(Run(MAIN, share, seed, rates[share]) for seed, share in product(self.seeds, self.shares))]

    def updates_of(self, run: Run) -> int:
        """Return how many updates a run has."""
        return self.search_updates if run.phase == SEARCH else self.updates

    def training(self, run: Run, folder: Path) -> list[str]:
        """Return the command line of `NLG/gpt2_share_ft.py` for a run."""
        updates = str(self.updates_of(run))
        return _words(
            {
                **_model(self.model),
                **RECIPE,
                "share": run.share,
                "lr": f"{run.rate:g}",
                "max_step": updates,
                "warmup_step": str(max(1, self.updates_of(run) // 20)),
                "eval_interval": updates,
                "save_interval": str(max(1, self.updates_of(run) // 4)),
                "save_total_limit": "1",
                "log_interval": "50",
                "seq_len": str(self.length),
                "max_eval_samples": str(self.held_out),
                "random_seed": str(run.seed),
                "work_dir": str(folder),
            },
            self.extra,
        )

    def decoding(self, run: Run, folder: Path) -> list[str]:
        """Return the command line of `NLG/gpt2_beam.py` for a run; its files go to `folder/decoded`."""
        limit = {} if self.limit is None else {"limit": str(self.limit)}
        adapter = BASE_ADAPTER if run.share == BASE else str(folder)
        where = {"adapter": adapter, "seq_len": str(self.length), "work_dir": str(folder / DECODED)}
        return _words({**_model(self.model), **DECODING, **limit, **where})

    def data(self) -> dict[str, Any]:
        """Return the fields as JSON data; the model by its folder's name, which says what is in it."""
        return {**asdict(self), "model": self.model and Path(self.model).name}


DECODED = "decoded"
BASE_ADAPTER = "none"


def _model(folder: str | None) -> dict[str, str]:
    return {"tiny": "true"} if folder is None else {"model_name_or_path": folder}


def _words(flags: Mapping[str, str], extra: Sequence[str] = ()) -> list[str]:
    return [*(word for name, value in flags.items() for word in (f"--{name}", value)), *extra]


def quick(experiment: Experiment) -> Experiment:
    """Return the same in small, to see that everything works: the project's own model and data, without Java."""
    budget = replace(experiment, updates=4, search_updates=2, rates=(1e-3, 3e-3), seeds=experiment.seeds[:2])
    return replace(budget, model=None, length=128, held_out=8, limit=4, without=("meteor",))


def chosen(names: str | None, known: Sequence[str]) -> tuple[str, ...]:
    """Return the ways of sharing in a comma-separated list, or all of them.

    Raises:
        UserError: an unknown one.
    """
    wanted = tuple(name.strip() for name in names.split(",")) if names else tuple(known)
    for name in wanted:
        if name not in known:
            raise UserError(f"found the sharing {name!r}; need some of {', '.join(known)}; separate with commas")
    return wanted
