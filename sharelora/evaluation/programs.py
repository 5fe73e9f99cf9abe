"""Programs that a model wrote, run several at once, and their outcomes on disk as they come."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.evaluation.batching import Listener
from sharelora.evaluation.store import Store
from sharelora.sandbox import Outcome
from sharelora.sandbox.running import as_they_end
from sharelora.support.reading import NAME

FILE = "outcomes.jsonl"


@dataclass(frozen=True)
class Program:
    """A program that a model wrote, and the code that tests it.

    Args:
        source: Python.
        test: Python that calls functions of the source and asserts what they return.
    """

    source: str
    test: str


# Executes a program where it can do no harm; nothing else in this file executes any.
Runner = Callable[[Program], Outcome]


# A line of the file.
_ROW = {"program": NAME, "passed": bool, "status": str, "detail": str, "seconds": float}


class OutcomeStore(Store[str, Outcome]):
    """Outcomes by what decides them, see `digest`.

    Args:
        folder: of the file.
        overwrite: discard outcomes that are there.

    Raises:
        UserError: the file is damaged, or cannot be written.
    """

    shape = _ROW

    def __init__(self, folder: Path, overwrite: bool = False) -> None:
        super().__init__(folder / FILE, {}, "--output", overwrite)

    def _to_row(self, key: str, result: Outcome) -> dict[str, Any]:
        return {"program": key, **vars(result)}

    def _from_row(self, row: Any) -> tuple[str, Outcome]:
        return row["program"], Outcome(row["passed"], row["status"], row["detail"], row["seconds"])


def digest(program: Program, conditions: Mapping[str, Any]) -> str:
    """The SHA-256 of a program and of the conditions that it runs under: its sandbox and limits."""
    return hashlib.sha256(json.dumps([dict(conditions), program.source, program.test]).encode()).hexdigest()


def judge(
    programs: Sequence[Program],
    runner: Runner,
    conditions: Mapping[str, Any],
    workers: int = 1,
    store: OutcomeStore | None = None,
    listener: Listener | None = None,
) -> list[Outcome]:
    """Run programs and return their outcomes; equal programs are run once.

    Args:
        programs: all of them.
        runner: executes one.
        conditions: what else decides an outcome, as JSON values.
        workers: programs at once.
        store: takes every outcome as soon as it is known; programs with an outcome in it are not run again.
        listener: called after every program with the finished and all programs to run, and the finished ones again.

    Returns:
        One outcome per program, in their order.
    """
    keys = [digest(program, conditions) for program in programs]
    outcomes = {} if store is None else dict(store.results)
    missing = {key: program for key, program in zip(keys, programs, strict=True) if key not in outcomes}
    waiting = list(missing)
    with closing(as_they_end(runner, list(missing.values()), workers)) as ended:
        for done, (index, outcome) in enumerate(ended, 1):
            outcomes[waiting[index]] = outcome
            if store is not None:
                store.add({waiting[index]: outcome})
            if listener is not None:
                listener(done, len(missing), done)
    return [outcomes[key] for key in keys]
