"""Running programs: what counts as right, what a program sees, what happens where the sandbox cannot be made."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from sandboxes import MEBIBYTE, SMALL, left_processes, skip_without_bubblewrap

from sharelora import sandbox
from sharelora.sandbox import Outcome, require_sandbox, rlimits, run_many, run_program, running
from sharelora.support.errors import UserError

DOUBLE = "def double(x):\n    return 2 * x"
BOTH = pytest.mark.parametrize("mode", sandbox.MODES)


@pytest.fixture(autouse=True)
def sandboxes_can_be_made(request: pytest.FixtureRequest) -> None:
    """Skip what needs the full sandbox where there is none."""
    if "mode" not in request.fixturenames or request.getfixturevalue("mode") == sandbox.BUBBLEWRAP:
        skip_without_bubblewrap()


def run(source: str, test: str | None = None, mode: str = sandbox.BUBBLEWRAP) -> Outcome:
    return run_program(source, test, SMALL, mode)


@BOTH
@pytest.mark.parametrize(
    ("source", "test", "status", "detail"),
    [
        (DOUBLE, "assert double(4) == 8", "passed", ""),
        (DOUBLE, "assert double(4) == 9", "failed", "does not hold, line 1 of the test: assert double(4) == 9"),
        (DOUBLE, "double(None)", "error", "TypeError: unsupported operand type(s) for *: 'int' and 'NoneType' (line 2"),
        (DOUBLE, "abs(double('a'))", "error", "TypeError: bad operand type for abs(): 'str', line 1 of the test"),
        (DOUBLE, "assert True", "error", "the test has called nothing of the program"),
        (DOUBLE, "assert triple(1) == 3", "error", "NameError: name 'triple' is not defined"),
        (
            DOUBLE + "\nx = (",
            "assert double(4) == 8",
            "error",
            "SyntaxError: '(' was never closed (line 3 of the program)",
        ),
        ("1 / 0", None, "error", "ZeroDivisionError: division by zero (line 1 of the program)"),
        ("assert __name__ == '__main__'", None, "passed", ""),
        ("import os\nos._exit(0)", None, "exited", "the program ended itself with exit code 0"),
        ("bytearray(2**30)", None, "memory", "MemoryError"),
        ("print('x' * 200_000)", None, "output", "more than 100,000 bytes printed"),
    ],
)
def test_what_becomes_of_a_program(source: str, test: str | None, status: str, detail: str, mode: str) -> None:
    found = run(source, test, mode)
    assert (found.status, found.passed) == (status, status == "passed") and found.detail.startswith(detail), found
    assert 0 < found.seconds < 15 and left_processes() == []


@BOTH
def test_time_is_counted_by_the_clock_and_by_the_processor(mode: str) -> None:
    # Other tests of this process may have left helpers of their own, such as multiprocessing's.
    before = set(psutil.Process().children(recursive=True))
    asleep = run_program("import time\ntime.sleep(60)", None, replace(SMALL, seconds=0.5), mode)
    busy = run_program("while True: pass", None, SMALL, mode)
    assert (asleep.status, asleep.detail) == ("timeout", "more than 0.5 s of wall clock")
    assert (busy.status, busy.detail) == ("timeout", "more than 1 s of processor time")
    assert set(psutil.Process().children(recursive=True)) <= before


def test_a_test_sees_the_program_s_functions_and_plain_values_and_its_own_builtins() -> None:
    source = (
        "import math\nLIST = [1, (2, 3)]\ndef abs(x): return 0\ndef half(x): return x / 2\ndef double(x): return 2 * x"
    )
    assert run(source, "import math\nassert half(double(3)) == math.sqrt(9) and LIST == [1, (2, 3)]").passed
    assert run(source, "assert abs(double(3)) == 6").passed, "the program's own abs is not the test's"
    assert run(source, "def half(x): return x\nassert half(double(3)) == 6").passed, "the test's own functions win"


def test_a_program_keeps_what_it_knows_between_calls_and_gets_copies() -> None:
    source = "seen = []\ndef add(x):\n    seen.append(len(x))\n    x.clear()\n    return seen"
    assert run(
        source, "x = [1]\nassert add(x) == [1] and add(x) == [1, 1] and x == [1] and add(x=x) == [1, 1, 1]"
    ).passed


def test_a_test_can_expect_an_exception_but_is_not_misled_by_one() -> None:
    source = (
        "def fail(kind):\n    raise kind_of[kind]('no')\nkind_of = {k.__name__: k for k in (ValueError, StopIteration)}"
    )
    expects = (
        "try:\n    fail('ValueError')\n    assert False\nexcept ValueError as error:\n    assert str(error) == 'no'"
    )
    assert run(source, expects).passed
    assert run(source, expects.replace("fail('ValueError')", "fail('StopIteration')")).status == "error"
    assert run(source, "assert all(map(fail, ['StopIteration']))").status == "error"


# Answers beforehand what the checker is going to ask: the definition, the names in the test, two calls, and `all`.
FORGED = """
import json, os
replies = [None, {"dict": [["f", None], ["all", None]]}, 0, 0, True]
texts = [json.dumps({"value": value}).encode() for value in replies]
for line in range(3, 64):
    try:
        os.write(line, b"".join(len(text).to_bytes(8, "little") + text for text in texts))
    except OSError:
        pass
"""


def test_a_forged_answer_cannot_give_the_test_other_builtins() -> None:
    assert run("def f(x): return x", "assert all([f(1) == 1, f(2) == 2])").passed
    assert run(FORGED, "assert [f(1), f(2)] == [0, 0]").passed, "the forged answers are read"
    assert run(FORGED, "assert all([f(1) == 1, f(2) == 2])").status == "failed"


def test_a_test_that_expects_everything_does_not_hide_that_the_program_has_ended() -> None:
    test = "for number in range(3):\n    try:\n        leave()\n    except BaseException:\n        pass"
    assert run("import os\ndef leave(): os._exit(0)", test).status == "exited"


@BOTH
def test_the_standard_library_is_there_and_nothing_else(mode: str) -> None:
    modules = (
        "bz2, ctypes, datetime, decimal, hashlib, heapq, lzma, math, random, re, sqlite3, statistics, typing, zlib"
    )
    assert run(f"import {modules}", None, mode).passed
    for name in ("torch", "numpy", "pytest", "sharelora"):
        assert run(f"import {name}", None, mode).detail.startswith(f"ModuleNotFoundError: No module named '{name}'")
    assert run(
        "import os\ndef names(): return list(os.environ)", "assert set(names()) <= {'PWD', 'LC_CTYPE'}", mode
    ).passed


def test_what_is_visible() -> None:
    source = (
        "import os\ndef see(path): return os.listdir(path)\ndef who(): return os.getuid(), os.getgid(), os.getgroups()"
    )
    allowed = {"dev", "etc", "lib", "lib64", "tmp", "usr", Path(sys.base_prefix).resolve().parts[1]}
    assert run(source, f"assert set(see('/')) <= {allowed}").passed
    assert run(
        source, "assert see('/tmp') == ['program.py'] and set(see('/dev')) == {'null', 'random', 'urandom'}"
    ).passed
    library = Path(os.__file__).resolve().parent
    assert run(source, f"assert see({str(library / 'site-packages')!r}) == []").passed
    assert run(source, "assert who()[0] > 60000 and who()[1] > 60000 and who()[2] in ([], [65534])").passed


@BOTH
def test_limits_hold_inside(mode: str) -> None:
    source = "import resource\ndef limit(name): return resource.getrlimit(getattr(resource, 'RLIMIT_' + name))[1]"
    wanted = {"AS": 256 * MEBIBYTE, "CPU": 2, "NPROC": 16, "FSIZE": SMALL.file_bytes, "NOFILE": 64, "CORE": 0}
    test = "\n".join(f"assert limit({name!r}) == {value}" for name, value in wanted.items())
    assert run(source, test, mode).passed


COUNT_FORKS = """
import os
def forks(most):
    made = 0
    for _ in range(most):
        try:
            child = os.fork()
        except OSError:
            continue
        if child == 0:
            os._exit(0)
        made += 1
    return made
"""
COUNT_THREADS = """
import threading, time
def threads(most):
    threading.stack_size(65536)
    try:
        for made in range(most):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    except RuntimeError:
        return made
    return most
"""


@BOTH
def test_no_process_can_be_made(mode: str) -> None:
    assert run(COUNT_FORKS, "assert forks(200) == 0", mode).passed


def test_few_threads_can_be_made() -> None:
    # The sandbox's own two or three processes are among the 16.
    assert run(COUNT_THREADS, "assert 10 <= threads(40) <= 14").passed


@BOTH
def test_signals_sockets_and_namespaces_are_refused(mode: str) -> None:
    source = "import ctypes, os, socket\ndef refused(what, *rest):\n    try:\n        what = eval(what)(*rest)\n"
    source += "    except PermissionError:\n        return True\n    return what == -1"
    calls = [
        "os.kill', os.getppid(), 0",
        "os.kill', os.getpid(), 0",
        "socket.socket'",
        "os.setsid'",
        "os.execv', '/x', ['x']",
    ]
    calls += [
        f"ctypes.CDLL(None).{name}" for name in ("unshare', 0x10000000", "memfd_create', b'x', 0", "shmget', 0, 9, 512")
    ]
    assert run(source, "import os\n" + "\n".join(f"assert refused('{call})" for call in calls), mode).passed


def test_many_programs_come_back_in_order() -> None:
    heard: list[tuple[int, int]] = []
    programs = [(f"def f(): return {number}", f"assert f() == {number - number % 3}") for number in range(9)]
    programs += [("import os\nos._exit(1)", None), ("x = 1", None)]
    found = run_many(programs, SMALL, workers=3, listener=lambda done, total: heard.append((done, total)))
    assert [outcome.passed for outcome in found] == [number % 3 == 0 for number in range(9)] + [False, True]
    assert heard == [(number, 11) for number in range(1, 12)]
    assert run_many([], SMALL) == [] and left_processes() == []


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(UserError, match="found the sandbox 'docker'; need one of bubblewrap, rlimits"):
        require_sandbox("docker")


def test_another_system_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UserError, match="found the system darwin; need Linux"):
        run_program("")


def test_where_bubblewrap_is_missing_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"found no program bwrap; need bubblewrap .*apt install.*--sandbox rlimits"):
        require_sandbox()


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with a bubblewrap that starts only after as many tries as the file `failures` says, as under load."""
    program = tmp_path / "bwrap"
    program.write_text(
        f"#!/bin/sh\ncd {tmp_path}\necho again >> tries\n"
        f'if [ $(wc -l < tries) -gt $(cat failures) ]; then exec {shutil.which("bwrap")} "$@"; fi\n'
        "echo 'bwrap: Creating new namespace failed: Resource' >&2\nexit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(running, "PAUSE", 0.02)
    return tmp_path


def test_a_sandbox_that_does_not_start_at_once_is_started_again(broken: Path) -> None:
    (broken / "failures").write_text(str(running.STARTS - 1))
    assert run(DOUBLE, "assert double(1) == 2").passed
    assert len((broken / "tries").read_text().split()) == running.STARTS


def test_a_sandbox_that_never_starts_is_no_fault_of_the_program(broken: Path) -> None:
    (broken / "failures").write_text("999")
    with pytest.raises(UserError, match=r"bubblewrap does not start \(bwrap: Creating new .*need.*--sandbox rlimits"):
        run_many([(DOUBLE, "assert double(1) == 2")] * 50, SMALL, workers=2)
    assert len((broken / "tries").read_text().split()) < 10 * running.STARTS, "the programs that wait are not tried"


def test_a_program_that_cannot_be_confined_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "PAUSE", 0.001)
    monkeypatch.setattr("sharelora.sandbox.running.calls_filter", lambda: b"no filter")
    with pytest.raises(UserError, match="does not start"):
        run("x = 1")


def test_the_weaker_sandbox_says_loudly_what_it_is(caplog: pytest.LogCaptureFixture) -> None:
    rlimits.warn.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            require_sandbox(sandbox.RLIMITS)
    assert len(caplog.records) == 1
    assert "rlimits does not protect files" in caplog.text and "read, change and delete" in caplog.text


def test_the_weaker_sandbox_leaves_no_folder_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source = "import os\ndef f():\n    open('here', 'w').write('x')\n    return os.getcwd()"
    assert (
        run(source, f"assert f().startswith('{tmp_path}')", sandbox.RLIMITS).passed and list(tmp_path.iterdir()) == []
    )


def test_nothing_is_kept_of_a_long_output() -> None:
    before = psutil.Process().memory_info().rss
    limits = replace(SMALL, output_bytes=200 * MEBIBYTE)
    found = run_program("import os\nwhile True: os.write(1, b'x' * 65536)", None, limits)
    assert found.status == "output" and psutil.Process().memory_info().rss - before < 20 * MEBIBYTE


def test_threads_of_the_caller_may_run_programs_at_the_same_time() -> None:
    found: list[Outcome] = []
    threads = [threading.Thread(target=lambda: found.append(run("x = 1"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.passed for outcome in found] == [True] * 4


@pytest.fixture
def alone() -> Iterator[Path]:
    """A folder with a copy of the sandbox's files, for a Python without packages and for a user without rights."""
    with tempfile.TemporaryDirectory(prefix="sharelora-test-") as place:
        folder, files = Path(place), Path(sandbox.__file__).parent
        package = folder / "sharelora" / "sandbox"
        shutil.copytree(files, package, ignore=shutil.ignore_patterns("__pycache__"))
        support = files.parent / "support"
        shutil.copytree(support, folder / "sharelora" / "support", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "sharelora" / "__init__.py").touch()
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        yield folder


START = "import sys\nsys.path.insert(0, sys.argv[1])\nfrom sharelora.sandbox import Limits, run_program\n"
AS_ANOTHER_USER = """
import os
assert os.getuid() == 1234
limits = Limits(memory_bytes=256 * 2**20, processes=16)
forks, threads = sys.argv[2:]
for mode in ("bubblewrap", "rlimits"):
    assert run_program(forks, "assert forks(200) == 0", limits, mode).passed
    assert run_program("def f(): return 1", "assert f() == 2", limits, mode).status == "failed"
assert run_program(threads, "assert 10 <= threads(40) <= 14", limits).passed
assert run_program(threads, "assert threads(40) <= 14", limits, "rlimits").passed
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="all other tests are run by an ordinary user already")
def test_an_ordinary_user_gets_the_same(alone: Path) -> None:
    python = shutil.which("python3", path="/usr/bin")
    new_enough = "import sys; sys.exit(sys.version_info < (3, 11))"
    if python is None or subprocess.run([python, "-c", new_enough]).returncode:
        pytest.skip("no Python of the system's own that is new enough, and root's own may be closed to others")
    words = [python, "-B", "-c", START + AS_ANOTHER_USER, alone, COUNT_FORKS, COUNT_THREADS]
    done = subprocess.run(words, user=1234, group=1234, extra_groups=[], env={}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


SLEEP = """
print(run_program("import time\\ntime.sleep(60)", None, Limits(seconds=60), sys.argv[2]))
"""


@BOTH
def test_a_program_does_not_outlive_a_killed_scorer(alone: Path, mode: str) -> None:
    words = [sys.executable, "-B", "-c", START + SLEEP, alone, mode]
    scorer = psutil.Popen(words, stderr=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(alone)})
    # Checker and program; in namespaces, bubblewrap outside and inside as well.
    wanted, until = 4 if mode == sandbox.BUBBLEWRAP else 2, time.monotonic() + 15
    while len(found := scorer.children(recursive=True)) < wanted and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.3)  # now it sleeps, with all its rights given up
    scorer.kill()
    scorer.wait()
    assert len(found) == wanted and psutil.wait_procs(found, timeout=5)[1] == []
