"""Honest programs of many styles: each passes, or is said to be not judged; and what the machine gets back."""

from __future__ import annotations

import fcntl
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from sandboxes import SMALL, left_processes, skip_without_bubblewrap

from sharelora.data.humaneval import CodeProblem
from sharelora.sandbox import MODES, Outcome, run_program


@pytest.fixture(autouse=True)
def sandboxes_can_be_made() -> None:
    skip_without_bubblewrap()


def run(source: str, test: str) -> Outcome:
    return run_program(source, test, SMALL)


# What honest programs use -> functions; each returns True if all went as it does outside of the sandbox.
STYLES = {
    "files and folders": """
import glob, gzip, io, os, pathlib, pickle, shelve, shutil, sqlite3, stat, tempfile, zipfile

def text_file():
    with open("a.txt", "w") as file:
        print("one\\ntwo", file=file)
    with open("a.txt") as file:
        return file.readlines() == ["one\\n", "two\\n"] and os.path.getsize("a.txt") == 8

def copies():
    shutil.copy2("a.txt", "b.txt")
    shutil.copyfile("b.txt", "c.txt")
    os.replace("c.txt", "d.txt")
    return sorted(glob.glob("?.txt")) == ["a.txt", "b.txt", "d.txt"] and os.stat("b.txt").st_size == 8

def folders():
    folder = pathlib.Path("x/y")
    folder.mkdir(parents=True)
    (folder / "file").write_text("text")
    (folder / "link").symlink_to("file")
    os.chmod(folder / "file", 0o600)
    found = [path.name for path in sorted(pathlib.Path("x").rglob("*"))], (folder / "link").read_text()
    shutil.rmtree("x")
    return found == (["y", "file", "link"], "text") and not os.path.exists("x")

def temporary():
    with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryDirectory() as folder:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
        return os.path.exists(file.name) and os.listdir(folder) == []

def databases():
    memory, base = sqlite3.connect(":memory:"), sqlite3.connect("base.db")
    with base:
        base.execute("create table t (x)")
        base.execute("insert into t values (7)")
    with shelve.open("shelf") as shelf:
        shelf["a"] = [1]
    with shelve.open("shelf") as shelf:
        return base.execute("select x from t").fetchall() == [(7,)] and shelf["a"] == [1]

class Kept:
    def __init__(self):
        self.x = 1

def packed():
    with zipfile.ZipFile("a.zip", "w") as file:
        file.writestr("a", "text")
    with gzip.open("a.gz", "wt") as file:
        file.write("text")
    return gzip.open("a.gz", "rt").read() == "text" and pickle.loads(pickle.dumps(Kept())).x == 1
""",
    "threads, tasks and time": """
import asyncio, concurrent.futures, datetime, os, queue, resource, select, signal, socket, threading, time, zoneinfo

def pool():
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        return list(pool.map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]

def threads():
    lines, ready = queue.Queue(), threading.Condition()
    def work():
        with ready:
            ready.notify()
        lines.put(threading.current_thread().name)
    with ready:
        thread = threading.Thread(target=work, name="other")
        thread.start()
        seen = ready.wait(5)
    thread.join()
    return seen and lines.get() == "other"

def tasks():
    async def one(x):
        await asyncio.sleep(0.001)
        return await asyncio.to_thread(abs, x)
    async def all():
        return await asyncio.gather(*(one(x) for x in (-1, -2)))
    return asyncio.run(all()) == [1, 2]

def alarm():
    heard = []
    signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    signal.pause()
    return heard == [1]

def lines():
    (reader, writer), (one, other) = os.pipe(), socket.socketpair()
    os.write(writer, b"x")
    one.sendall(b"y")
    ready = select.select([reader, other], [], [], 1)[0]
    return len(ready) == 2 and os.read(reader, 9) + other.recv(9) == b"xy"

def clocks():
    began = time.perf_counter(), time.process_time(), time.monotonic(), time.time()
    time.sleep(0.001)
    date = datetime.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return time.perf_counter() > began[0] and used > 0 and date.utcoffset() == datetime.timedelta(hours=2)
""",
    "its own text and Python itself": """\ufeff
import ast, contextlib, ctypes, dataclasses, inspect, io, logging, mmap, os, platform, random, sys, tracemalloc, uuid
import warnings, weakref

def own_text():
    return "own_text" in inspect.getsource(own_text) and inspect.getsourcefile(own_text) == __file__ == sys.argv[0]

@dataclasses.dataclass(order=True)
class Point:
    x: int
    y: int = 0

def text_of_a_class():
    names = {node.name for node in ast.parse(open(__file__, encoding="utf-8-sig").read()).body if hasattr(node, "name")}
    return inspect.getsource(Point).splitlines()[1] == "class Point:" and "Point" in names

def output():
    with contextlib.redirect_stdout(io.StringIO()) as text:
        print("x")
    logging.warning("to the error stream")
    return text.getvalue() == "x\\n" and not sys.stdout.isatty() and sys.stdin.read() == ""

def made():
    made = eval("[x * x for x in range(3)]") + [type("New", (), {"x": 1})().x]
    return made == [0, 1, 4, 1] and sorted([Point(2), Point(1)])[0] == Point(1)

def memory():
    tracemalloc.start()
    with mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE) as area:
        area[:2] = b"ab"
    with open("area", "wb+") as file:
        file.write(bytes(4096))
        file.flush()
        with mmap.mmap(file.fileno(), 0) as area:
            area[:2] = b"ab"
            area.flush()
        return file.seek(0) == 0 and file.read(2) == b"ab" and len([bytes(10**6) for _ in range(50)]) == 50

def facts():
    numbers = os.cpu_count(), os.getpid(), len(os.urandom(8)), uuid.uuid4().version
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda x: x + 1)
    return min(numbers) > 0 and platform.system() == "Linux" and compare(1) == 2 and random.random() < 1
""",
}
STYLE = [pytest.param(source, id=name) for name, source in STYLES.items()]


@pytest.mark.parametrize("source", STYLE)
def test_honest_programs_work_as_outside(source: str) -> None:
    names = [line[4:-3] for line in source.splitlines() if line.startswith("def ")]
    assert len(names) > 4
    test = (
        f"assert {{name: call() for name, call in {{{', '.join(f'{name!r}: {name}' for name in names)}}}.items()}} == "
    )
    found = run(source, test + repr(dict.fromkeys(names, True)))
    broken = [name for name in names if not found.passed and not run(source, f"assert {name}() is True").passed]
    assert found.passed and broken == [], (found, broken)


@pytest.mark.parametrize(
    ("source", "test"),
    [
        (
            "class Bad(ValueError): pass\ndef f():\n    raise Bad('no', 3)",
            "except ValueError as error:\n    assert error.args == ('no', 3)",
        ),
        ("def f(): return {}['key']", "except KeyError as error:\n    assert error.args == ('key',)"),
        ("import json\ndef f(): return json.loads('{')", "except __import__('json').JSONDecodeError:\n    pass"),
        ("def f(): return open('nowhere')", "except FileNotFoundError as error:\n    assert error.errno == 2"),
        (
            "def f(): return b'\\xff'.decode()",
            "except UnicodeDecodeError as error:\n    assert error.object == b'\\xff'",
        ),
        (
            "def f(): raise ExceptionGroup('all', [ValueError(1)])",
            "except Exception as error:\n    assert 'all' in str(error)",
        ),
        ("def f(): raise SystemExit(3)", "except SystemExit as error:\n    assert error.code == 3"),
        ("def f():\n    raise type('Odd', (KeyError,), {'__module__': 7})(object())", "except KeyError:\n    pass"),
    ],
)
def test_exceptions_arrive_as_what_a_test_expects(source: str, test: str) -> None:
    assert run(source, f"try:\n    f()\n    assert False\n{test}").passed


def test_a_class_of_the_test_s_own_modules_is_no_way_to_pass() -> None:
    source = "class AssertionError(AssertionError):\n    pass\ndef f():\n    raise AssertionError('passed')"
    assert run(source, "f()").status == "error"


@pytest.mark.parametrize("make", ["[x]", "(x,)", "{0: x}"])
def test_deep_results_arrive(make: str) -> None:
    nest = f"def NAME(most):\n    x = 0\n    for _ in range(most):\n        x = {make}\n    return x\n"
    source, wanted = nest.replace("NAME", "f"), nest.replace("NAME", "wanted")
    # As deep as Python can compare by itself.
    assert run(source, f"{wanted}assert f(990) == wanted(990) and f(990) != wanted(989)").passed
    assert run(source, f"{wanted}assert f(20_000) == wanted(20_000)").status == "unjudged"


@pytest.mark.parametrize(
    ("source", "test", "detail"),
    [
        ("def f(x): return lambda: x", "assert f(1)() == 1", "the program returned a value of type function"),
        ("class A: pass\ndef f(x): return [A()]", "assert f(1)", "the program returned a value of type A"),
        ("def f(x): return x(1)", "assert f(lambda y: y) == 1", "the test passes a value of type function"),
        ("o = object()\ndef f(): return 1", "assert f() == 1\nassert o", "the test uses o of the program"),
        ("def f(): return lambda: 0", "try:\n    f()\nexcept BaseException:\n    pass", "the program returned"),
    ],
)
def test_what_cannot_be_sent_is_not_judged(source: str, test: str, detail: str) -> None:
    found = run(source, test)
    assert not found.passed and found.status == "unjudged" and found.detail.startswith(detail), found


PROMPT = 'def encode(x):\n    return x + 5\n\n\ndef decode(x):\n    """Undo encode."""\n'
ENCODED = CodeProblem("Toy/0", PROMPT, "decode", "    return x - 5\n", "def check(f):\n    assert f(encode(1)) == 1\n")
OTHER = "\n\ndef encode(x{}):\n    return x\n"


@pytest.mark.parametrize(
    ("completion", "status"),
    [
        (ENCODED.solution, "passed"),
        (ENCODED.solution + OTHER.format(""), "passed"),
        (ENCODED.solution + OTHER.format(", y"), "passed"),
        ("    return x\n" + OTHER.format(""), "failed"),
    ],
)
def test_a_completion_that_defines_the_prompt_s_helper_again_is_tested_with_the_prompt_s(
    completion: str, status: str
) -> None:
    assert run(ENCODED.program(completion), ENCODED.check).status == status


def test_a_prompt_whose_beginning_is_no_code_by_itself_brings_no_helper() -> None:
    for prompt in ("@cache\ndef decode(x):\n", "class A:\n    def decode(x):\n"):
        assert replace(ENCODED, prompt=prompt).check == f"{ENCODED.test}\n\ncheck(decode)\n"


# Takes what all programs of the machine have in common, and keeps it for a while.
GREEDY = """
import ctypes, fcntl, os, time
kernel = ctypes.CDLL(None)
def take(file):
    found = [kernel.syscall(number, 65536, (ctypes.c_size_t * 1)()) for number in (206, 0) * 20]
    found += [kernel.inotify_init1(0) for _ in range(20)]
    kept = open(file, "rb")
    fcntl.flock(kept, fcntl.LOCK_EX)
    fcntl.lockf(kept, fcntl.LOCK_SH)
    for _ in range(10_000):
        os.sync()
    time.sleep(0.05)
    return kept.closed
"""


def requests() -> int:
    """How many requests for asynchronous input and output are set up on this machine."""
    return int(Path("/proc/sys/fs/aio-nr").read_text())


@pytest.mark.parametrize("mode", MODES)
def test_nothing_of_the_machine_is_taken(mode: str) -> None:
    before, most, locked, ended = requests(), 0, 0, threading.Event()

    def watch() -> None:
        nonlocal most, locked
        with open(os.__file__, "rb") as file:
            while not ended.wait(0.005):
                most = max(most, requests())
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    fcntl.flock(file, fcntl.LOCK_UN)
                except BlockingIOError:
                    locked += 1

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        found = run_program(GREEDY, f"assert take({os.__file__!r}) is False", SMALL, mode)
    finally:
        ended.set()
        watcher.join()
    assert found.passed, found
    assert locked == 0 and most < before + 10_000 and requests() < before + 10_000 and left_processes() == []
