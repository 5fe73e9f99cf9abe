"""Runs of the GLUE job, one after another in worker processes that live on, with a line for each that ends."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.glue_experiment import METHODS, Experiment, Run, settings
from benchmarks.glue_start import Start
from benchmarks.run_log import logged
from sharelora.support.errors import UserError
from sharelora.support.files import read_json, write_json
from sharelora.training.output import COMPLETED

LOG = "log.txt"


def is_done(root: Path, run: Run) -> bool:
    """Return whether a run has ended and left its result."""
    folder = root / run.name
    return (folder / COMPLETED).is_file() and (folder / "result.json").is_file()


def remember(experiment: Experiment, root: Path) -> None:
    """Write down what the runs below a folder have in common.

    Raises:
        UserError: runs of another experiment lie there.
    """
    file, now = root / "experiment.json", settings(experiment)
    if not file.is_file():
        write_json(file, now)
        return
    before = read_json(file)
    # More tasks may join; those that are there must not change.
    now["tasks"] = {**before["tasks"], **now["tasks"]}
    changed = [name for name in now if name != "tasks" and before.get(name) != now[name]]
    changed += [f"task {name}" for name, task in before["tasks"].items() if now["tasks"][name] != task]
    if changed:
        raise UserError(
            f"{root} holds runs of another experiment: {', '.join(changed)} differ; choose another "
            "--output, or remove it"
        )
    write_json(file, now)


def execute(words: Sequence[str], start: Start) -> float:
    """Do one run in this process.

    Args:
        words: the job's command line.
        start: what prepares the model.

    Returns:
        Seconds.

    Raises:
        UserError: what the job refuses; its log lies in the run's folder.
    """
    from transformers.utils.logging import disable_progress_bar

    from sharelora.training.glue.job import parse, run

    disable_progress_bar()
    began = time.monotonic()
    with logged(Path(start.folder) / LOG, "w"):
        run(parse(list(words)), prepare=start)
    return time.monotonic() - began


def _begin_worker() -> None:
    import torch

    torch.set_num_threads(1)


class Ended:
    """Says what has ended and when everything will have: planned costs, scaled by how long they took so far."""

    def __init__(self, experiment: Experiment, runs: Sequence[Run]) -> None:
        self.costs = {run: experiment.seconds(run) for run in runs}
        self.began = time.monotonic()
        self.done = 0.0
        self.count = 0

    def __call__(self, run: Run, seconds: float) -> None:
        """Print a line for a run."""
        self.done += self.costs[run]
        self.count += 1
        left = (sum(self.costs.values()) - self.done) * (time.monotonic() - self.began) / self.done
        until = timedelta(seconds=round(left))
        print(f"[{self.count}/{len(self.costs)}] {run.name}: {seconds:.0f} s; {until} left", flush=True)


def run_all(experiment: Experiment, runs: Sequence[Run], root: Path, jobs: int, until: float = math.inf) -> None:
    """Do all runs that are not done yet.

    Args:
        experiment: what they are of.
        runs: in order of importance: they are begun in it.
        root: below it every run has its folder.
        jobs: worker processes of one thread each; 0 means this process.
        until: by `time.monotonic`; no run is begun later.

    Raises:
        UserError: a run failed; those that have ended stay, and the same command goes on from there.
    """
    todo = [run for run in runs if not is_done(root, run)]
    ended = Ended(experiment, todo)
    print(f"{len(runs)} runs, {len(runs) - len(todo)} of them done before", flush=True)
    todo = todo if time.monotonic() < until else []
    if jobs == 0:
        for run in todo:
            if time.monotonic() < until:
                ended(run, _one(execute, experiment, run, root))
        return
    # Workers read it when they import torch.
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _begin_worker) as pool:
        futures = {_one(lambda *job: pool.submit(execute, *job), experiment, run, root): run for run in todo}
        for future in as_completed(futures):
            if not future.cancelled():
                _end(future, futures[future], root, ended, pool)
            if time.monotonic() >= until:
                pool.shutdown(wait=False, cancel_futures=True)


def _end(future: Future[float], run: Run, root: Path, ended: Ended, pool: Executor) -> None:
    try:
        ended(run, future.result())
    except Exception as error:
        pool.shutdown(wait=False, cancel_futures=True)
        raise UserError(f"run {run.name} failed: {error}; see {root / run.name / LOG}") from error


def _one(call: Callable[..., Any], experiment: Experiment, run: Run, root: Path) -> Any:
    folder, method = str(root / run.name), METHODS[run.method]
    return call(experiment.flags(run, folder), Start(folder, method.same_start, method.frozen, experiment.dropout))
