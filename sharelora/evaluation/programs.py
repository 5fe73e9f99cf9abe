"""Run programs that a model wrote, several at once, and keep what came of each.

They are executed by a function that is given, see `Runner`; nothing in this file executes any.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from sharelora.evaluation import store
from sharelora.evaluation.multiple_choice import Listener
from sharelora.sandbox import Outcome

FILE = "outcomes.jsonl"


@dataclass(frozen=True)
class Program:
    """What a model wrote, and how it is found out whether it is right.

    Args:
        source: Python.
        test: Python that calls functions of the source and asserts what they return.
    """

    source: str
    test: str


# Executes a program where it can do no harm.
Runner = Callable[[Program], Outcome]


class OutcomeStore(store.Store[str, Outcome]):
    """Outcomes by what decides them, see `digest`.

    Args:
        folder: where the file lies.
        overwrite: forget what is there.

    Raises:
        UserError: the file is damaged, or cannot be written.
    """

    def __init__(self, folder: Path, overwrite: bool = False) -> None:
        super().__init__(folder / FILE, {}, "--output", overwrite)

    def _to_row(self, key: str, value: Outcome) -> dict[str, Any]:
        return {"program": key, **vars(value)}

    def _from_row(self, row: Any) -> tuple[str, Outcome]:
        found = bool(row["passed"]), str(row["status"]), str(row["detail"]), float(row["seconds"])
        return str(row["program"]), Outcome(*found)


def digest(program: Program, conditions: Mapping[str, Any]) -> str:
    """The SHA-256 of a program and of the conditions that it runs under: its sandbox and limits."""
    return hashlib.sha256(json.dumps([dict(conditions), *astuple(program)]).encode()).hexdigest()


def judge(
    programs: Sequence[Program],
    run: Runner,
    conditions: Mapping[str, Any],
    workers: int = 1,
    kept: OutcomeStore | None = None,
    listener: Listener | None = None,
) -> list[Outcome]:
    """Find out what comes of programs; equal ones are run once.

    Args:
        programs: all of them.
        run: executes one.
        conditions: what else decides an outcome, as values of JSON.
        workers: programs at once.
        kept: takes every outcome as soon as it is there; what is in it already is not run again.
        listener: called after every program with the finished and all programs to be run, and the finished ones again.

    Returns:
        One outcome per program, in their order.
    """
    keys = [digest(program, conditions) for program in programs]
    found = {} if kept is None else dict(kept.found)
    missing = {key: program for key, program in zip(keys, programs, strict=True) if key not in found}
    pool = ThreadPoolExecutor(workers)
    try:
        futures = {pool.submit(run, program): key for key, program in missing.items()}
        for done, future in enumerate(as_completed(futures), 1):
            new = {futures[future]: future.result()}
            found.update(new)
            if kept is not None:
                kept.add(new)
            if listener is not None:
                listener(done, len(missing), done)
    finally:
        # Whoever presses the keys waits for the programs that are running, not for all the others.
        pool.shutdown(cancel_futures=True)
    return [found[key] for key in keys]
