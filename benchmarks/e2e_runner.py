"""Runs of the E2E comparison: train, decode, score, in worker processes that live on; each stage is done once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import run_pool
from benchmarks.e2e_experiment import BASE, DECODED, MAIN, Experiment, Run
from benchmarks.run_log import logged
from benchmarks.run_pool import LOG
from sharelora.support.files import write_json
from sharelora.training.output import COMPLETED

SCORES = "scores.json"


def remember(experiment: Experiment, root: Path) -> None:
    """Write down what is compared; more seeds or ways of sharing leave the runs that are there as they are.

    Raises:
        UserError: the folder holds runs of another comparison; the message names the first difference.
    """
    run_pool.remember(experiment.data(), root, ("seeds", "shares"))


def is_trained(root: Path, run: Run) -> bool:
    """Return whether a run's training has ended; the base has none."""
    folder = root / run.name
    return run.share == BASE or ((folder / COMPLETED).is_file() and (folder / "result.json").is_file())


def is_done(root: Path, run: Run) -> bool:
    """Return whether nothing of a run is left to do."""
    scored = run.phase != MAIN or (root / run.name / SCORES).is_file()
    return scored and is_trained(root, run)


def execute(experiment: Experiment, root: Path, run: Run) -> float:
    """Do what is left of one run in this process.

    Returns:
        Seconds.

    Raises:
        UserError: what a job refuses; the log lies in the run's folder.
    """
    began, folder = time.monotonic(), root / run.name
    with logged(folder / LOG, "a"):
        if not is_trained(root, run):
            _train(experiment, run, folder)
        if run.phase == MAIN:
            _decode_and_score(experiment, run, folder)
    return time.monotonic() - began


def _train(experiment: Experiment, run: Run, folder: Path) -> None:
    from sharelora.training.nlg.job import parse
    from sharelora.training.nlg.job import run as train

    train(parse(experiment.training(run, folder)))


def _decode_and_score(experiment: Experiment, run: Run, folder: Path) -> None:
    from sharelora.evaluation.beam.arguments import parse
    from sharelora.evaluation.beam.job import run as decode

    decode(parse(experiment.decoding(run, folder)))
    write_json(folder / SCORES, score(experiment, folder / DECODED / "predictions.txt"))


def score(experiment: Experiment, predictions: Path) -> dict[str, float]:
    """Return the metrics of decoded texts."""
    from sharelora.data.nlg import grouped, load_nlg
    from sharelora.evaluation.nlg_texts import read_lines
    from sharelora.metrics.nlg import score_e2e

    root = None
    if experiment.model is None:
        from sharelora.tiny import tiny_data

        root = tiny_data()
    groups = grouped(load_nlg("e2e", "test", root))[: experiment.limit]
    return score_e2e(read_lines(predictions), [group.references for group in groups], experiment.without)


def run_all(experiment: Experiment, runs: Sequence[Run], root: Path, jobs: int, threads: int = 1) -> None:
    """Do all runs that are not done yet; see `run_pool.run_all`."""
    done, do = partial(is_done, root), partial(execute, experiment, root)
    run_pool.run_all(runs, root, done, do, jobs, threads)
