"""Many runs in worker processes that live on: each is done once and logs into its own folder."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Protocol, TypeVar

from sharelora.support.errors import UserError

LOG = "log.txt"


class Named(Protocol):
    """A run; its folder, below that of all runs, has its name."""

    @property
    def name(self) -> str:
        """The folder's name."""


R = TypeVar("R", bound=Named)


@contextmanager
def logged(file: Path) -> Iterator[None]:
    """Append what a job logs, and the error that ends it, to a file instead of the terminal.

    Args:
        file: the log; its folder is created.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    logger, handler = logging.getLogger("sharelora"), logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            # PEFT asks models for an attribute that transformers has renamed since.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            yield
    except Exception:
        logger.exception("the run failed")
        raise
    finally:
        logger.level, logger.propagate = before
        logger.removeHandler(handler)
        handler.close()


class Announcer:
    """Print a line for each run that ends: planned costs, scaled by how long runs took so far, say what is left.

    Args:
        runs: to do.
        cost: of a run, in any unit.
    """

    def __init__(self, runs: Sequence[R], cost: Callable[[R], float]) -> None:
        self.costs = {run.name: cost(run) for run in runs}
        self.began = time.monotonic()
        self.done = 0.0
        self.count = 0

    def __call__(self, name: str, seconds: float) -> None:
        """Print the line of a run."""
        self.done += self.costs[name]
        self.count += 1
        left = (sum(self.costs.values()) - self.done) * (time.monotonic() - self.began) / self.done
        left_time = timedelta(seconds=round(left))
        print(f"[{self.count}/{len(self.costs)}] {name}: {seconds:.0f} s; {left_time} left", flush=True)


def run_all(
    runs: Sequence[R],
    root: Path,
    is_done: Callable[[R], bool],
    execute: Callable[[R], float],
    jobs: int,
    cost: Callable[[R], float] = lambda run: 1.0,
    until: float = math.inf,
) -> None:
    """Do all runs that are not done yet, with a line for each that ends.

    Args:
        runs: in order of importance: they are begun in it.
        root: the folder of all runs.
        is_done: whether nothing of a run is left to do.
        execute: does what is left of a run and returns seconds; it is sent to the workers.
        jobs: worker processes of one thread each; 0 means this process.
        cost: planned cost of a run, for the time that is left.
        until: by `time.monotonic`; no run is begun later.

    Raises:
        UserError: a run failed; those that have ended stay, and the same command continues from there.
    """
    todo = [run for run in runs if not is_done(run)]
    announce = Announcer(todo, cost)
    print(f"{len(runs)} runs, {len(runs) - len(todo)} of them done before", flush=True)
    for name, seconds in _each(todo, root, execute, jobs, until):
        announce(name, seconds)


def _each(
    todo: Sequence[R], root: Path, execute: Callable[[R], float], jobs: int, until: float
) -> Iterator[tuple[str, float]]:
    """Yield the name and the seconds of each run when it ends."""
    if jobs == 0 or time.monotonic() >= until:
        for run in todo:
            if time.monotonic() < until:
                with _named(run, root):
                    seconds = execute(run)
                yield run.name, seconds
        return
    # Workers read it when they import torch.
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin_worker) as pool:
        futures = {pool.submit(execute, run): run for run in todo}
        for future in as_completed(futures):
            run = futures[future]
            if not future.cancelled():
                try:
                    with _named(run, root):
                        seconds = future.result()
                except UserError:
                    # What has not begun is left for the next time.
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
                yield run.name, seconds
            if time.monotonic() >= until:
                pool.shutdown(wait=False, cancel_futures=True)


def _begin_worker() -> None:
    # Only workers need it: the process that plans the runs does without torch.
    import torch

    torch.set_num_threads(1)


@contextmanager
def _named(run: Named, root: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise UserError(f"run {run.name} failed: {error}; see {root / run.name / LOG}") from error
