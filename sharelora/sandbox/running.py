"""Run programs, one or many at once, in one of the two sandboxes."""

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

from sharelora.sandbox import cgroups, isolation, rlimits
from sharelora.sandbox.isolation import DEFAULT, Limits, Start
from sharelora.sandbox.seccomp import calls_filter
from sharelora.sandbox.supervisor import Supervisor, Verdict
from sharelora.support.errors import UserError

P = TypeVar("P")
R = TypeVar("R")
# Called with the number of finished programs and of all.
Listener = Callable[[int, int], None]
# Attempts to start a sandbox, and the seconds before the second one; doubled each time.
STARTS, PAUSE = 4, 0.25
PACKAGE = "sharelora.sandbox.inside"
# Each needs only those before it; the last one has `main`.
MODULES = ("wire", "confine", "worker", "program", "checker")
# The code that Python starts with: make modules of the first part of the job, and run the last one.
START = """
import marshal, os, sys, types
for name, code in marshal.loads(os.read(0, int.from_bytes(os.read(0, 8), "little"))):
    sys.modules[name] = module = types.ModuleType(name)
    exec(code, module.__dict__)
module.main()
"""
UNJUDGED = "unjudged"
# status -> what it means
STATUSES = {
    "passed": "every test ran to its end",
    "failed": "an assertion of the test does not hold",
    "error": "the program, or the test on a result of it, raised an exception",
    "timeout": "too much wall clock or processor time",
    "memory": "asked for more memory than allowed",
    "output": "printed or returned more than allowed",
    "exited": "the program ended itself before the test was over",
    "killed": "a signal ended the program: a crash, or the machine ran out of memory",
    UNJUDGED: "a value that the test needs cannot be sent to it: neither right nor wrong",
    "cheated": "the program wrote to the checker's pipe by itself, or closed it",
}
LONGEST_DETAIL = 300


@dataclass(frozen=True)
class Outcome:
    """The outcome of a program.

    Args:
        passed: whether it counts as right; true only for the status `passed`.
        status: a name of `STATUSES`.
        detail: one line for people: the assertion, the exception, the limit. Partly the program's own words.
        seconds: of wall clock, with the start of the sandbox.
    """

    passed: bool
    status: str
    detail: str
    seconds: float


def outcome(status: str, detail: str, seconds: float) -> Outcome:
    """Make an outcome; in the detail, what cannot be printed becomes spaces, and what is too long is cut."""
    if status not in STATUSES:
        raise ValueError(f"no status is called {status!r}")
    line = " ".join("".join(char if char.isprintable() else " " for char in detail[: 4 * LONGEST_DETAIL]).split())
    short = line if len(line) <= LONGEST_DETAIL else line[: LONGEST_DETAIL - 4] + " ..."
    return Outcome(status == "passed", status, short, seconds)


@dataclass(frozen=True)
class Mode:
    """A kind of sandbox.

    Args:
        prepare: returns how to start it; raises a `UserError` if that is impossible here.
        advice: what to do if it does not start all the same.
    """

    prepare: Callable[[Limits], Start]
    advice: str


BUBBLEWRAP, RLIMITS = "bubblewrap", "rlimits"
MODES = {
    BUBBLEWRAP: Mode(
        isolation.prepare,
        "need bubblewrap 0.7 or newer and a kernel that lets it create namespaces; allow them (sysctl "
        "kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0; in a container, from "
        "outside), " + isolation.WEAKER,
    ),
    RLIMITS: Mode(rlimits.prepare, "need a kernel with seccomp; score the programs on another machine"),
}


def require_sandbox(mode: str = BUBBLEWRAP) -> None:
    """Prove, before any long work, that programs can be run, by running an empty one.

    Args:
        mode: a name of `MODES`.

    Raises:
        UserError: no such mode, or it does not work here; the message says what to install.
    """
    empty = run_program("", mode=mode)
    if not empty.passed:
        raise UserError(
            f"found that an empty program does not pass in the sandbox {mode} ({empty.status}: {empty.detail}); "
            f"{MODES[mode].advice}"
        )


def run_program(source: str, test: str | None = None, limits: Limits = DEFAULT, mode: str = BUBBLEWRAP) -> Outcome:
    """Run an untrusted program, and judge whether it is right.

    Args:
        source: Python. With a test it is used like a module: its functions are called. Alone it runs as a script.
        test: Python that calls functions of the program by name, at least one, and asserts what they return; it sees
            copies of the program's plain values too. None: a program passes if it runs to its end.
        limits: what it may use.
        mode: a name of `MODES`.

    Returns:
        The outcome. A misbehaving program raises nothing here: it just does not pass.

    Raises:
        UserError: the sandbox itself does not start after several attempts, which is not the program's fault.
    """
    if mode not in MODES:
        raise UserError(f"found the sandbox {mode!r}; need one of {', '.join(MODES)}")
    if sys.platform != "linux":
        raise UserError(f"found the system {sys.platform}; need Linux to run programs in a sandbox; score them there")
    started = time.monotonic()
    verdict = _run_once(source, test, limits, MODES[mode])
    for number in range(STARTS - 1):
        if verdict.status is None:
            # Right after a heavy load the kernel may refuse new namespaces for a moment.
            time.sleep(PAUSE * 2**number)
            verdict = _run_once(source, test, limits, MODES[mode])
    if verdict.status is None:
        raise UserError(f"found that the sandbox {mode} does not start ({verdict.detail}); {MODES[mode].advice}")
    return outcome(verdict.status, verdict.detail, time.monotonic() - started)


def _run_once(source: str, test: str | None, limits: Limits, mode: Mode) -> Verdict:
    """Start a sandbox in an empty folder, and watch it to its end."""
    start = mode.prepare(limits)
    job = make_job(source, test, limits, start.user)
    with (
        tempfile.TemporaryDirectory(prefix="sharelora-sandbox-", ignore_cleanup_errors=True) as folder,
        cgroups.group(limits) as group,
    ):
        if start.user is not None:
            os.chown(folder, start.user, start.user)
        try:
            process = _spawn(group.words([*start.words, "-c", START]), job, folder)
        except OSError as error:
            return Verdict(None, str(error))
        verdict = Supervisor(process, limits).watch()
        if verdict.status == "killed" and group.out_of_memory():
            return Verdict("memory", "all of its processes and files together took more than allowed")
        return verdict


def _spawn(words: Sequence[str], job: bytes, folder: str) -> subprocess.Popen[bytes]:
    """Start a sandbox with its job as standard input: a file in memory, so that nothing has to keep writing."""
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
        workers: how many at a time; None for the number of processors. With more, each program is slower by the clock.
        listener: called after every program.

    Returns:
        The outcomes, in the order of the programs.

    Raises:
        UserError: see `run_program`; programs that are waiting are then not started.
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


def make_job(source: str, test: str | None, limits: Limits, user: int | None) -> bytes:
    """Return what a sandbox reads from standard input: the code that runs inside, the program, and then the test.

    The parts are read one after the other: by the time the test is read, the program runs in its own process.

    Args:
        source: the program.
        test: Python that calls it; None if the program only has to run to its end.
        limits: of the program.
        user: id of the user that the program becomes; None to stay the same.
    """
    job = {"source": source, "tested": test is not None, "limits": asdict(limits), "user": user}
    job["filter"] = calls_filter().hex()
    parts = [_code(), json.dumps(job).encode()]
    # Text that is not valid Unicode (half a surrogate pair) is not valid Python either; Python itself reports that.
    parts += [] if test is None else [test.encode("utf-8", "surrogatepass")]
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


@functools.cache
def _code() -> bytes:
    # Compiled here, once: nothing of the project has to be visible inside.
    texts = {name: files(PACKAGE).joinpath(f"{name}.py").read_text(encoding="utf-8") for name in MODULES}
    compiled = [
        (f"{PACKAGE}.{name}", compile(text, f"<{name}>", "exec", dont_inherit=True)) for name, text in texts.items()
    ]
    return marshal.dumps(compiled)
