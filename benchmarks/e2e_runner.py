"""Runs of the E2E comparison: train, decode, score, in worker processes that live on; each stage is done once."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.e2e_experiment import BASE, DECODED, MAIN, Experiment, Run
from benchmarks.run_log import logged
from sharelora import UserError
from sharelora.files import read_json, write_json
from sharelora.training.output import COMPLETED

LOG = "log.txt"
EXPERIMENT = "experiment.json"
SCORES = "scores.json"


def remember(experiment: Experiment, root: Path) -> None:
    """Write down what is compared, so that runs of another comparison are never mixed with these.

    Raises:
        UserError: the folder holds runs of another comparison; the message names the first difference.
    """
    file, now = root / EXPERIMENT, experiment.data()
    before = read_json(file) if file.is_file() else None
    now_plain = {name: list(value) if isinstance(value, tuple) else value for name, value in now.items()}
    if before is not None:
        # More seeds or ways of sharing leave the runs that are there as they are.
        open_ended = ("seeds", "shares")
        changed = [name for name in now_plain if name not in open_ended and before.get(name) != now_plain[name]]
        if changed:
            name = changed[0]
            raise UserError(
                f"{root} holds runs with {name} {before.get(name)}, these have {now_plain[name]}; need one comparison "
                "per folder; choose another --output"
            )
    write_json(file, now_plain)


def is_trained(root: Path, run: Run) -> bool:
    """Return whether a run's training has ended; the base has none."""
    folder = root / run.name
    return run.share == BASE or ((folder / COMPLETED).is_file() and (folder / "result.json").is_file())


def is_done(root: Path, run: Run) -> bool:
    """Return whether nothing of a run is left to do."""
    scored = run.phase != MAIN or (root / run.name / SCORES).is_file()
    return scored and is_trained(root, run)


def execute(experiment: Experiment, run: Run, root: Path) -> float:
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
    from sharelora.training.nlg.arguments import parse
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


def _begin_worker(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def run_all(experiment: Experiment, runs: Sequence[Run], root: Path, jobs: int, threads: int = 1) -> None:
    """Do all runs that are not done yet, with a line for each that ends.

    Args:
        experiment: what they are of.
        runs: in order of importance: they are begun in it.
        root: below it every run has its folder.
        jobs: worker processes; 0 means this process.
        threads: of torch in each of them.

    Raises:
        UserError: a run failed; those that have ended stay, and the same command goes on from there.
    """
    todo = [run for run in runs if not is_done(root, run)]
    print(f"{len(runs)} runs, {len(runs) - len(todo)} of them done before", flush=True)
    began = time.monotonic()
    for count, (run, seconds) in enumerate(_each(experiment, todo, root, jobs, threads), 1):
        left = timedelta(seconds=round((time.monotonic() - began) / count * (len(todo) - count)))
        print(f"[{count}/{len(todo)}] {run.name}: {seconds:.0f} s; {left} left", flush=True)


def _each(
    experiment: Experiment, todo: Sequence[Run], root: Path, jobs: int, threads: int
) -> Iterator[tuple[Run, float]]:
    if jobs == 0:
        for run in todo:
            with _explained(run, root):
                seconds = execute(experiment, run, root)
            yield run, seconds
        return
    # Workers read it when they import torch.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _begin_worker, (threads,)) as pool:
        futures: dict[Any, Run] = {pool.submit(execute, experiment, run, root): run for run in todo}
        for future in as_completed(futures):
            run = futures[future]
            with _explained(run, root):
                seconds = _result(future, pool)
            yield run, seconds


def _result(future: Future[float], pool: ProcessPoolExecutor) -> float:
    try:
        return future.result()
    except Exception:
        # What has not begun is left for the next time.
        pool.shutdown(wait=False, cancel_futures=True)
        raise


@contextmanager
def _explained(run: Run, root: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise UserError(f"run {run.name} failed: {error}; see {root / run.name / LOG}") from error
