"""What became of a program."""

from __future__ import annotations

from dataclasses import dataclass

# status -> what it says
STATUSES = {
    "passed": "every test ran to its end",
    "failed": "an assertion of the test does not hold",
    "error": "the program, or the test on what it returned, raised an exception",
    "timeout": "too much wall clock or processor time",
    "memory": "more memory asked for than allowed",
    "output": "more printed or returned than allowed",
    "exited": "the program ended itself before the tests were over",
    "killed": "a signal ended the program: a crash, or too little memory of the machine",
    "cheated": "the program spoke to the checker by itself, or cut the line to it",
}
LONGEST_DETAIL = 300


@dataclass(frozen=True)
class Outcome:
    """What became of a program.

    Args:
        passed: whether it counts as right; true for the status `passed` alone.
        status: a name of `STATUSES`.
        detail: one line for people: the assertion, the exception, the limit. Written by the program in part.
        seconds: of wall clock, the start of the sandbox included.
    """

    passed: bool
    status: str
    detail: str
    seconds: float


def outcome(status: str, detail: str, seconds: float) -> Outcome:
    """Make an outcome; what cannot be printed in the detail becomes spaces, and what is too long is cut."""
    if status not in STATUSES:
        raise ValueError(f"no status is called {status!r}")
    line = " ".join("".join(mark if mark.isprintable() else " " for mark in detail[: 4 * LONGEST_DETAIL]).split())
    short = line if len(line) <= LONGEST_DETAIL else line[: LONGEST_DETAIL - 4] + " ..."
    return Outcome(status == "passed", status, short, seconds)
