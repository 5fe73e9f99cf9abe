"""The E2E comparison: methods, budget, the runs that follow from them, and how one is done and read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.harness.command import flag_words
from benchmarks.harness.experiment import MAIN, SEARCH, SEARCH_SEED, Arm, Experiment, Run
from sharelora.reporting.results import read_result
from sharelora.support.files import write_json
from sharelora.support.reading import read_json

TITLES: Mapping[str, str] = {"none": "LoRA", "a": "ShareA", "b": "ShareB", "ab": "ShareAB"}
BASE = "base"  # the model before tuning, scored once
METRICS = ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")
# LoRA's recipe for E2E but for the learning rate, the updates, the warm-up, the precision and what is adapted:
# a small model that has read only novels cannot learn E2E's texts by its queries and values only.
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
# Files and folders of a run.
DECODED, SCORES = "decoded", "scores.json"


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        scores: metric -> score; empty of a search.
        loss: on the validation rows after the last update, in nats per token; None of the base.
        trainable: trained parameters of the adapter, each counted once.
        bytes: of the adapter's file.
        training: seconds of training.
        decoding: seconds of the beam search.
        ended: the share of texts that ended by themselves.
    """

    scores: Mapping[str, float]
    loss: float | None = None
    trainable: int = 0
    bytes: int = 0
    training: float = 0.0
    decoding: float = 0.0
    ended: float = 0.0


@dataclass(frozen=True)
class E2EExperiment(Experiment[Outcome]):
    """The E2E comparison; the methods are the ways of sharing.

    Attributes:
        model: folder of the pre-trained GPT-2; None for the small one that the project makes, and its data.
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

    open_ended: ClassVar[tuple[str, ...]] = ("seeds", "shares")

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

    def main(self, rates: Mapping[Arm, float]) -> list[Run]:
        """Return the base and the compared runs, seed by seed."""
        base = Run(MAIN, BASE, 0, 0.0)
        return [base, *(Run(MAIN, share, seed, rates[share]) for seed, share in product(self.seeds, self.shares))]

    def data(self) -> dict[str, Any]:
        """Return the fields as JSON data; the model by its folder's name, which says what is in it."""
        return {**asdict(self), "model": self.model and Path(self.model).name}

    def training(self, run: Run, folder: Path) -> list[str]:
        """Return the command line of `NLG/gpt2_share_ft.py` for a run."""
        updates = self.search_updates if run.phase == SEARCH else self.updates
        flags = {
            **self._model_flags(),
            **RECIPE,
            "share": run.method,
            "lr": f"{run.rate:g}",
            "max_step": updates,
            "warmup_step": max(1, updates // 20),
            "eval_interval": updates,
            "save_interval": max(1, updates // 4),
            "save_total_limit": 1,
            "log_interval": 50,
            "seq_len": self.length,
            "max_eval_samples": self.held_out,
            "random_seed": run.seed,
            "work_dir": folder,
        }
        return [*flag_words(flags), *self.extra]

    def decoding(self, run: Run, folder: Path) -> list[str]:
        """Return the command line of `NLG/gpt2_beam.py` for a run; its files go to `folder/decoded`."""
        limit = {} if self.limit is None else {"limit": self.limit}
        adapter = "none" if run.method == BASE else folder
        files = {"adapter": adapter, "seq_len": self.length, "work_dir": folder / DECODED}
        return flag_words({**self._model_flags(), **DECODING, **limit, **files})

    def _model_flags(self) -> dict[str, str]:
        return {"tiny": "true"} if self.model is None else {"model_name_or_path": self.model}

    def is_trained(self, run: Run, folder: Path) -> bool:
        """Return whether a run's training has ended; the base has none."""
        return run.method == BASE or super().is_done(run, folder)

    def is_done(self, run: Run, folder: Path) -> bool:
        """Return whether a run is trained, and if it is compared, scored."""
        scored = run.phase != MAIN or (folder / SCORES).is_file()
        return scored and self.is_trained(run, folder)

    def execute(self, run: Run, folder: Path) -> None:
        """Do the stages of a run that are left: train, decode, score."""
        if not self.is_trained(run, folder):
            train(self, run, folder)
        if run.phase == MAIN:
            decode_and_score(self, run, folder)

    def outcome(self, run: Run, folder: Path) -> Outcome:
        """Read a run that has ended."""
        scores = read_json(folder / SCORES) if (folder / SCORES).is_file() else {}
        decoded = read_result(folder / DECODED / "result.json").metrics if scores else {}
        outcome = Outcome(scores, decoding=decoded.get("seconds", 0.0), ended=decoded.get("ended", 0.0))
        if run.method == BASE:
            return outcome
        result = read_result(folder / "result.json")
        return replace(
            outcome,
            loss=result.metrics["eval_loss"],
            trainable=result.plan["trainable"],
            bytes=result.adapter["bytes"],
            training=result.metrics["train_runtime"],
        )

    def losses(self, run: Run, outcome: Outcome) -> tuple[float, ...]:
        """Return the validation loss."""
        return (math.inf if outcome.loss is None else outcome.loss,)


# The jobs are imported only in worker processes: they load torch and PEFT.


def train(experiment: E2EExperiment, run: Run, folder: Path) -> None:
    """Train a run."""
    from sharelora.training.nlg.job import parse
    from sharelora.training.nlg.job import run as train_job

    train_job(parse(experiment.training(run, folder)))


def decode_and_score(experiment: E2EExperiment, run: Run, folder: Path) -> None:
    """Decode the test set with a run's adapter and write the metrics of the texts."""
    from sharelora.data.nlg import grouped, load_nlg
    from sharelora.evaluation.beam.arguments import parse
    from sharelora.evaluation.beam.job import run as decode_job
    from sharelora.evaluation.nlg_texts import read_lines
    from sharelora.metrics.nlg import score_e2e
    from sharelora.tiny import tiny_data

    decode_job(parse(experiment.decoding(run, folder)))
    root = tiny_data() if experiment.model is None else None
    groups = grouped(load_nlg("e2e", "test", root))[: experiment.limit]
    texts, references = read_lines(folder / DECODED / "predictions.txt"), [group.references for group in groups]
    write_json(folder / SCORES, score_e2e(texts, references, experiment.without))


def quick(experiment: E2EExperiment) -> E2EExperiment:
    """Return the same in small, to see that everything works: the project's own model and data, without Java."""
    budget = replace(experiment, updates=4, search_updates=2, rates=(1e-3, 3e-3), seeds=experiment.seeds[:2])
    return replace(budget, model=None, length=128, held_out=8, limit=4, without=("meteor",))
