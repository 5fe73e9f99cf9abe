"""Run programs that a model wrote, several at once, and keep what came of each.

The programs are executed by a function that is given; nothing in this file executes any.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sharelora.evaluation import store
from sharelora.evaluation.multiple_choice import Listener

FILE = "outcomes.jsonl"


class Outcome(Protocol):
    """What came of a program.

    Attributes:
        passed: whether it ended as it should.
        status: in a word: what happened.
        detail: the error, or what else there is to say.
    """

    @property
    def passed(self) -> bool: ...

    @property
    def status(self) -> str: ...

    @property
    def detail(self) -> str: ...


# Executes a program, its source and the seconds it may take, where it can do no harm.
Runner = Callable[[str, float], Outcome]


@dataclass(frozen=True)
class Verdict:
    """An outcome that was kept; see `Outcome`."""

    passed: bool
    status: str
    detail: str


class OutcomeStore(store.Store[str, Verdict]):
    """Outcomes by what decides them, see `digest`.

    Args:
        folder: where the file lies.
        overwrite: forget what is there.

    Raises:
        UserError: the file is damaged, or cannot be written.
    """

    def __init__(self, folder: Path, overwrite: bool = False) -> None:
        super().__init__(folder / FILE, {}, "--output", overwrite)

    def _to_row(self, key: str, value: Verdict) -> dict[str, Any]:
        return {"program": key, **vars(value)}

    def _from_row(self, row: Any) -> tuple[str, Verdict]:
        return str(row["program"]), Verdict(bool(row["passed"]), str(row["status"]), str(row["detail"]))


def digest(program: str, seconds: float) -> str:
    """The SHA-256 of a program's source and of the seconds that it may take."""
    return hashlib.sha256(f"{seconds}\n{program}".encode()).hexdigest()


def judge(
    programs: Sequence[str],
    run: Runner,
    seconds: float,
    workers: int = 1,
    kept: OutcomeStore | None = None,
    listener: Listener | None = None,
) -> list[Verdict]:
    """Find out what comes of programs; equal ones are run once.

    Args:
        programs: their sources.
        run: executes one.
        seconds: that each may take.
        workers: programs at once.
        kept: takes every outcome as soon as it is there; what is in it already is not run again.
        listener: called after every program with the finished and all programs to be run, and the finished ones again.

    Returns:
        One verdict per program, in their order.
    """
    keys = [digest(program, seconds) for program in programs]
    found = {} if kept is None else dict(kept.found)
    missing = {key: program for key, program in zip(keys, programs, strict=True) if key not in found}
    pool = ThreadPoolExecutor(workers)
    try:
        futures = {pool.submit(run, program, seconds): key for key, program in missing.items()}
        for done, future in enumerate(as_completed(futures), 1):
            outcome = future.result()
            new = {futures[future]: Verdict(bool(outcome.passed), str(outcome.status), str(outcome.detail))}
            found.update(new)
            if kept is not None:
                kept.add(new)
            if listener is not None:
                listener(done, len(missing), done)
    finally:
        # Whoever presses the keys waits for the programs that are running, not for all the others.
        pool.shutdown(cancel_futures=True)
    return [found[key] for key in keys]
