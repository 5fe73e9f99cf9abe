"""Many runs of one comparison, in worker processes that live on; each is done once, and two comparisons never mix."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sharelora import UserError
from sharelora.support.files import read_json, write_json

LOG = "log.txt"
EXPERIMENT = "experiment.json"


class Named(Protocol):
    """A run: it lies below the folder of all runs, in a folder of its name."""

    @property
    def name(self) -> str:
        """The folder's name."""


R = TypeVar("R", bound=Named)
Execute = Callable[[R], float]  # does one run, returns seconds; it is sent to other processes


def remember(data: Mapping[str, Any], root: Path, open_ended: Collection[str]) -> None:
    """Write down what is compared, so that runs of another comparison are never mixed with these.

    Args:
        data: everything that decides the numbers, as JSON data.
        root: the folder of all runs.
        open_ended: fields that may change: runs that are there stay as they are.

    Raises:
        UserError: the folder holds runs of another comparison; the message names the first difference.
    """
    file = root / EXPERIMENT
    before = read_json(file) if file.is_file() else None
    now = {name: list(value) if isinstance(value, tuple) else value for name, value in data.items()}
    changed = [name for name in now if before and name not in open_ended and before.get(name) != now[name]]
    if before and changed:
        name = changed[0]
        raise UserError(
            f"{root} holds runs with {name} {before.get(name)}, these have {now[name]}; need one comparison per "
            "folder; choose another --output"
        )
    write_json(file, now)


def run_all(
    runs: Sequence[R], root: Path, is_done: Callable[[R], bool], execute: Execute[R], jobs: int, threads: int = 1
) -> None:
    """Do all runs that are not done yet, with a line for each that ends.

    Args:
        runs: in order of importance: they are begun in it.
        root: below it every run has its folder.
        is_done: whether nothing of a run is left to do.
        execute: does what is left of one.
        jobs: worker processes; 0 means this process.
        threads: of torch in each of them.

    Raises:
        UserError: a run failed; those that have ended stay, and the same command goes on from there.
    """
    todo = [run for run in runs if not is_done(run)]
    print(f"{len(runs)} runs, {len(runs) - len(todo)} of them done before", flush=True)
    began = time.monotonic()
    for count, (run, seconds) in enumerate(_each(todo, root, execute, jobs, threads), 1):
        left = timedelta(seconds=round((time.monotonic() - began) / count * (len(todo) - count)))
        print(f"[{count}/{len(todo)}] {run.name}: {seconds:.0f} s; {left} left", flush=True)


def _begin_worker(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _each(todo: Sequence[R], root: Path, execute: Execute[R], jobs: int, threads: int) -> Iterator[tuple[R, float]]:
    if jobs == 0:
        for run in todo:
            with _explained(run, root):
                seconds = execute(run)
            yield run, seconds
        return
    # Workers read it when they import torch.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _begin_worker, (threads,)) as pool:
        futures: dict[Any, R] = {pool.submit(execute, run): run for run in todo}
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
def _explained(run: Named, root: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise UserError(f"run {run.name} failed: {error}; see {root / run.name / LOG}") from error
