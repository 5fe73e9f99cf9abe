"""Running programs: one, or many at once, in one of the two sandboxes."""

from __future__ import annotations

import functools
import json
import marshal
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import TypeVar

from sharelora.sandbox import isolation, rlimits
from sharelora.sandbox.following import Follower, Said
from sharelora.sandbox.isolation import DEFAULT, Limits, Start
from sharelora.sandbox.system_calls import calls_filter
from sharelora.support.errors import UserError

P = TypeVar("P")
R = TypeVar("R")
# Called with the number of finished programs and of all.
Listener = Callable[[int, int], None]
# How often the sandbox is started until it stands, and the seconds before the second start; doubled each time.
STARTS, PAUSE = 4, 0.25


@dataclass(frozen=True)
class Mode:
    """A kind of sandbox.

    Args:
        prepare: returns how it is started; raises a `UserError` if it cannot be made here.
        advice: what to do if it does not start all the same.
    """

    prepare: Callable[[Limits], Start]
    advice: str


BUBBLEWRAP, RLIMITS = "bubblewrap", "rlimits"
MODES = {
    BUBBLEWRAP: Mode(
        isolation.prepare,
        "need a bubblewrap of version 0.7 or newer and a kernel that lets it make namespaces; allow them (sysctl "
        "kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0; in a container, from "
        "outside), " + isolation.WEAKER,
    ),
    RLIMITS: Mode(rlimits.prepare, "need a kernel with seccomp; score the programs on another machine"),
}


def require_sandbox(mode: str = BUBBLEWRAP) -> None:
    """Prove that programs can be run, before any long work starts, by running an empty one.

    Args:
        mode: a name of `MODES`.

    Raises:
        UserError: no such mode, or it does not work here; the message says what to install.
    """
    found = run_program("", mode=mode)
    if not found.passed:
        raise UserError(
            f"found that an empty program does not pass in the sandbox {mode} ({found.status}: {found.detail}); "
            f"{MODES[mode].advice}"
        )


def run_program(source: str, test: str | None = None, limits: Limits = DEFAULT, mode: str = BUBBLEWRAP) -> Outcome:
    """Run a program nobody has read, and say whether it is right.

    Args:
        source: Python. With a test it is used like a module: its functions are called. Alone it runs as a script.
        test: Python that calls functions of the program by their names, and asserts what they return; it sees copies
            of the program's plain values as well. It must call at least one. None: a program passes that runs to its
            end.
        limits: what it may use.
        mode: a name of `MODES`.

    Returns:
        What became of it. However it behaves, it is this program alone that does not pass.

    Raises:
        UserError: the sandbox itself does not start, even when tried again; this is no fault of the program.
    """
    if mode not in MODES:
        raise UserError(f"found the sandbox {mode!r}; need one of {', '.join(MODES)}")
    if sys.platform != "linux":
        raise UserError(f"found the system {sys.platform}; need Linux to run programs in a sandbox; score them there")
    began = time.monotonic()
    said = _start(source, test, limits, MODES[mode])
    for number in range(STARTS - 1):
        if said.status is None:
            # Right after a heavy load the kernel may refuse new namespaces for a moment.
            time.sleep(PAUSE * 2**number)
            said = _start(source, test, limits, MODES[mode])
    if said.status is None:
        raise UserError(f"found that the sandbox {mode} does not start ({said.detail}); {MODES[mode].advice}")
    return outcome(said.status, said.detail, time.monotonic() - began)


def _start(source: str, test: str | None, limits: Limits, mode: Mode) -> Said:
    """Start a sandbox in an empty folder, and follow it to its end."""
    start = mode.prepare(limits)
    job = make_job(source, test, limits, start.user)
    with tempfile.TemporaryDirectory(prefix="sharelora-sandbox-", ignore_cleanup_errors=True) as folder:
        if start.user is not None:
            os.chown(folder, start.user, start.user)
        try:
            process = _spawn([*start.words, "-c", START], job, folder)
        except OSError as error:
            return Said(None, str(error))
        return Follower(process, limits).follow()


def _spawn(words: Sequence[str], job: bytes, folder: str) -> subprocess.Popen[bytes]:
    """Start a sandbox with its job as standard input: a file in memory, so that nobody has to keep writing."""
    memory = os.memfd_create("job")
    try:
        with open(memory, "wb", closefd=False) as file:
            file.write(job)
        os.lseek(memory, 0, os.SEEK_SET)
        pipe = subprocess.PIPE
        return subprocess.Popen(
            words, stdin=memory, stdout=pipe, stderr=pipe, cwd=folder, env={}, start_new_session=True, bufsize=0
        )
    finally:
        os.close(memory)


def run_many(
    programs: Sequence[tuple[str, str | None]],
    limits: Limits = DEFAULT,
    mode: str = BUBBLEWRAP,
    workers: int | None = None,
    listener: Listener | None = None,
) -> list[Outcome]:
    """Run many programs, several at a time.

    Args:
        programs: pairs of a program and its test, or None, as `run_program` takes them.
        limits: of each.
        mode: a name of `MODES`.
        workers: how many at a time; None for the number of processors. More of them than processors make each program
            slower by the clock.
        listener: called after every program.

    Returns:
        What became of each, in the order of the programs.

    Raises:
        UserError: see `run_program`; programs that wait are then not started.
    """

    def run(program: tuple[str, str | None]) -> Outcome:
        return run_program(*program, limits, mode)

    outcomes: dict[int, Outcome] = {}
    with closing(as_they_end(run, programs, workers or len(os.sched_getaffinity(0)))) as ended:
        for index, outcome in ended:
            outcomes[index] = outcome
            if listener is not None:
                listener(len(outcomes), len(programs))
    return [outcomes[index] for index in range(len(programs))]


def as_they_end(run: Callable[[P], R], items: Sequence[P], workers: int) -> Generator[tuple[int, R]]:
    """Run a function on items in threads, several at a time.

    Args:
        run: the function.
        items: its arguments.
        workers: how many at a time.

    Yields:
        The index of an item and its result, in the order in which they end. On an error, or when the generator is
        closed, items that are running are waited for and no others are started.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
    try:
        futures = {pool.submit(run, item): index for index, item in enumerate(items)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


# What a sandbox is given over standard input: the code that runs inside, the program, and, behind it, the test.
#
# The code comes compiled, so that nothing of the project has to be visible inside, and nothing is compiled a thousand
# times. The parts are separate because they are for different eyes: when the test is read, the program already runs in
# a process of its own.


PACKAGE = "sharelora.sandbox.inside"
# In an order in which each needs only those before it; the last one has `main`.
MODULES = ("wire", "confine", "worker", "program", "checker")
# What Python is told to do: make modules of the first part, and run the last one.
START = """
import marshal, os, sys, types
for name, code in marshal.loads(os.read(0, int.from_bytes(os.read(0, 8), "little"))):
    sys.modules[name] = module = types.ModuleType(name)
    exec(code, module.__dict__)
module.main()
"""


def make_job(source: str, test: str | None, limits: Limits, user: int | None) -> bytes:
    """Return all that a sandbox reads.

    Args:
        source: the program.
        test: Python that calls it; None if the program is to run to its end and no more.
        user: number of the user that the program becomes; None to stay what it is.
    """
    job = {"source": source, "tested": test is not None, "limits": asdict(limits), "user": user}
    job["filter"] = calls_filter().hex()
    parts = [_code(), json.dumps(job).encode()]
    # A text that is not Unicode (half a surrogate pair) is no Python either; Python itself is to say so.
    parts += [] if test is None else [test.encode("utf-8", "surrogatepass")]
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


@functools.cache
def _code() -> bytes:
    texts = {name: files(PACKAGE).joinpath(f"{name}.py").read_text(encoding="utf-8") for name in MODULES}
    compiled = [
        (f"{PACKAGE}.{name}", compile(text, f"<{name}>", "exec", dont_inherit=True)) for name, text in texts.items()
    ]
    return marshal.dumps(compiled)


# What became of a program.


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
