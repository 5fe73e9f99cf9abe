"""Runs of the comparison of layer groups: similarity once, then trainings, each of which is done once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks import run_pool
from benchmarks.groups_experiment import Experiment, Run, Way
from benchmarks.run_log import logged
from sharelora.layer_groups import FILE, Similarity, read_similarity
from sharelora.training.output import COMPLETED


def ensure_similarity(experiment: Experiment, root: Path) -> Similarity:
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
        similarity.add_flags(parser)
        similarity.run(parser.parse([*model, *texts, "--similarity_threshold", f"{experiment.threshold:g}"]))
    return read_similarity(root / FILE)


def is_done(root: Path, run: Run) -> bool:
    """Return whether a run has ended and left its result."""
    folder = root / run.name
    return (folder / COMPLETED).is_file() and (folder / "result.json").is_file()


def execute(experiment: Experiment, ways: Mapping[str, Way], root: Path, run: Run) -> float:
    """Do one run in this process.

    Returns:
        Seconds.

    Raises:
        UserError: what the job refuses; the log lies in the run's folder.
    """
    from transformers.utils.logging import disable_progress_bar

    from sharelora.training.instructions.job import parse
    from sharelora.training.instructions.job import run as train

    disable_progress_bar()
    began, folder = time.monotonic(), root / run.name
    with logged(folder / run_pool.LOG, "w"):
        train(parse(experiment.words(run, ways[run.way], folder)))
    return time.monotonic() - began


def run_all(experiment: Experiment, ways: Mapping[str, Way], runs: Sequence[Run], root: Path, jobs: int) -> None:
    """Do all runs that are not done yet; see `run_pool.run_all`."""
    run_pool.run_all(runs, root, partial(is_done, root), partial(execute, experiment, ways, root), jobs)


def remember(experiment: Experiment, root: Path) -> None:
    """Write down what is compared; more seeds or rates, and thresholds that are only shown, leave the runs as they are.

    Raises:
        UserError: the folder holds runs of another comparison; the message names the first difference.
    """
    run_pool.remember(experiment.data(), root, ("seeds", "rates", "thresholds"))
