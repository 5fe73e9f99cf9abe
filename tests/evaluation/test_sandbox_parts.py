"""The parts of the sandbox that need no sandbox: values in messages, the filter of system calls, limits, outcomes."""

from __future__ import annotations

import ast
import errno
import itertools
import json
import marshal
import platform
import struct
import subprocess
import sys
from array import array
from collections import Counter, OrderedDict, deque, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from sharelora import sandbox
from sharelora.sandbox import Limits, seccomp
from sharelora.sandbox.inside.wire import LONGEST_MESSAGE, CannotBeSent, TooLong, decode, encode, send
from sharelora.sandbox.running import make_job, outcome
from sharelora.sandbox.system_calls import (
    ALLOW,
    ALLOWED,
    ANSWERED,
    DONE,
    FAIL,
    KILL,
    PARTLY,
    REFUSED,
    UNKNOWN,
)
from sharelora.support.errors import UserError

FOLDER = Path(sandbox.__file__).parent
SCALARS = some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text() | some.binary()
VALUES = some.recursive(
    SCALARS | some.complex_numbers(allow_nan=False),
    lambda inner: some.lists(inner) | some.tuples(inner, inner) | some.dictionaries(SCALARS, inner),
    max_leaves=12,
)


def through(value: Any) -> Any:
    """What arrives at the other end of a line."""
    return decode(json.loads(json.dumps(encode(value))))


@settings(max_examples=50)
@given(VALUES)
def test_plain_values_arrive_as_they_are(value: Any) -> None:
    found = through(value)
    assert found == value and repr(found) == repr(value)


@settings(max_examples=30)
@given(some.sets(SCALARS))
def test_sets_arrive_in_any_order(value: set[Any]) -> None:
    assert through(value) == value and sorted(map(repr, through(value))) == sorted(map(repr, value))


def test_other_values_arrive_as_what_a_test_would_take_them_for() -> None:
    Point = namedtuple("Point", "x y")
    kept = [range(3, 9, 2), frozenset({1}), bytearray(b"x"), deque([1, 2]), Fraction(1, 3), Decimal("1.50"), 10**5000]
    assert through(kept) == kept and [type(value) for value in through(kept)] == [type(value) for value in kept]
    assert str(through(float("nan"))) == "nan" and through([float("inf"), -0.0]) == [float("inf"), 0.0]
    assert through(Counter("aab")) == {"a": 2, "b": 1} and through(OrderedDict(a=1)) == {"a": 1}
    assert through(Point(1, 2)) == (1, 2) and type(through(Point(1, 2))) is tuple
    assert (
        through({1: 2}.keys()) == {1} and list(through({1: 2}.values())) == [2] and through({1: 2}.items()) == {(1, 2)}
    )
    assert list(through(x * x for x in range(3))) == [0, 1, 4] and through(iter([1])) != [1]
    assert through("half a pair: \ud800") == "half a pair: \ud800"


BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    "value",
    [
        datetime(2024, 10, 27, 2, 30, 1, 5, BERLIN, fold=1),
        datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=-3), "there")),
        date(2024, 2, 29),
        time(23, 59, fold=1),
        timedelta(-1, 5, 7),
        UTC,
        BERLIN,
        UUID(int=5),
        array("d", [1.5, float("inf")]),
        array("i"),
        NotImplemented,
        ...,
    ],
    ids=repr,
)
def test_values_of_the_standard_library_arrive(value: Any) -> None:
    found = through([value])[0]
    assert type(found) is type(value) and found == value and repr(found) == repr(value)
    assert getattr(found, "fold", 0) == getattr(value, "fold", 0)


@pytest.mark.parametrize("value", [object(), len, lambda: 0, [{1: (object,)}], sys])
def test_what_is_not_plain_cannot_be_sent(value: Any) -> None:
    with pytest.raises(CannotBeSent, match="which cannot be sent"):
        encode(value)


def test_an_object_that_equals_everything_does_not_arrive() -> None:
    class Any(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    assert Any(3) == 4 and through(Any(3)) != 4 and type(through(Any(3))) is int


@pytest.mark.parametrize("form", [{"os.system": "x"}, {}, {"list": [], "set": []}, {"set": [[]]}, {"int": "x"}])
def test_a_form_that_nobody_makes_is_refused(form: Any) -> None:
    with pytest.raises((KeyError, ValueError, TypeError)):
        decode(form)


def test_a_message_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(TooLong, match="at most 16,777,216"):
        send(-1, "x" * LONGEST_MESSAGE)


def answer(code: bytes, number: int, arguments: tuple[int, ...] = (), processor: int = 0) -> int:
    """What the kernel would answer to a call: the slow reading of the filter."""
    data = struct.pack("<iIQ6Q", number, processor, 0, *arguments, *[0] * (6 - len(arguments)))
    lines = list(struct.iter_unpack("<HBBI", code))
    place = loaded = 0
    while True:
        operation, if_true, if_false, value = lines[place]
        place += 1
        if operation == seccomp.RETURN:
            return value
        if operation == seccomp.LOAD:
            loaded = struct.unpack_from("<I", data, value)[0]
        elif operation == seccomp.AND:
            loaded &= value
        else:
            assert operation == seccomp.EQUAL
            place += if_true if loaded == value else if_false


# Calls by which programs took what no limit counts, or reached others: number on x86_64 and on aarch64.
NEVER = {
    "vmsplice": (278, 75),
    "splice": (275, 76),
    "tee": (276, 77),
    "sendfile": (40, 71),
    "io_setup": (206, 0),
    "io_uring_setup": (425, 425),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "shmget": (29, 194),
    "mq_open": (240, 180),
    "timer_create": (222, 107),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "ptrace": (101, 117),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "connect": (42, 203),
    "bind": (49, 200),
    "sendmsg": (46, 211),
    "setsockopt": (54, 208),
    "mount": (165, 40),
    "setns": (308, 268),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
}
FORK, THREAD = 17, 0x3D0F00
# A call that is allowed in part, its arguments -> the answer.
IN_PART = [
    ("mmap", (0, 4096, 3, 0x22), ALLOW),  # private memory
    ("mmap", (0, 4096, 1, 0x812), ALLOW),  # a shared library, at its place
    ("mmap", (0, 4096, 3, 0x01), ALLOW),  # a file of /tmp, shared
    ("mmap", (0, 4096, 3, 0x21), FAIL | errno.ENOMEM),
    ("mmap", (0, 4096, 3, 0x23), FAIL | errno.ENOMEM),
    ("mmap", (0, 4096, 3, 0x40022), FAIL | errno.ENOMEM),
    ("madvise", (0, 4096, 4), ALLOW),
    ("madvise", (0, 4096, 14), FAIL | errno.EINVAL),
    ("clone", (FORK,), REFUSED),
    ("clone", (THREAD,), ALLOW),
    ("clone", (THREAD | 0x10000000,), REFUSED),
    ("futex", (0, 0x189), ALLOW),
    ("futex", (0, 6), UNKNOWN),
    ("prctl", (15,), ALLOW),
    ("prctl", (1,), REFUSED),
    ("prlimit64", (0,), ALLOW),
    ("prlimit64", (1,), REFUSED),
    ("fcntl", (3, 2), ALLOW),
    *(("fcntl", (3, lock), DONE) for lock in (6, 7, 37, 38)),
    *(("fcntl", (3, other), FAIL | errno.EINVAL) for other in (8, 10, 15, 1024, 1026, 1031, 1033)),
    ("ioctl", (3, 0x5401), ALLOW),
    ("ioctl", (3, 0x8901), FAIL | errno.ENOTTY),
    ("socketpair", (1, 0x80801), ALLOW),
    ("socketpair", (1, 2), REFUSED),
    ("socketpair", (30, 1), REFUSED),
    ("membarrier", (8,), ALLOW),
    ("membarrier", (1,), FAIL | errno.EINVAL),
]


@pytest.mark.parametrize("machine", seccomp.PROCESSORS)
def test_the_filter_allows_what_is_in_its_tables_and_nothing_else(machine: str) -> None:
    code, (processor, column) = seccomp.calls_filter(machine), seccomp.PROCESSORS[machine]

    def ask(number: int | None, *arguments: int) -> int:
        assert number is not None
        return answer(code, number, arguments, processor)

    tables = [(ALLOW, calls) for calls in ALLOWED.values()] + list(ANSWERED.items())
    wanted = {pair[column]: found for found, calls in tables for pair in calls.values() if pair[column] is not None}
    assert {number: ask(number) for number in wanted} == wanted
    assert [case for case in IN_PART if ask(PARTLY[case[0]][0][column], *case[1]) != case[2]] == []
    assert {case[0] for case in IN_PART} == set(PARTLY)
    partly = {numbers[column] for numbers, _ in PARTLY.values()}
    assert not partly & set(wanted), "a call is in two tables"
    unknown = set(range(600)) - set(wanted) - partly
    assert {ask(number) for number in (*unknown, 0x40000000, 0x40000001, 2**31 - 1)} == {UNKNOWN}
    assert [name for name, pair in NEVER.items() if ask(pair[column]) != UNKNOWN] == []
    assert answer(code, 63, (), 0x40000003) == KILL  # the calls of another processor


HEADERS = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "/usr/include/asm-generic/unistd.h"}


@pytest.mark.parametrize("machine", seccomp.PROCESSORS)
def test_the_numbers_are_the_kernel_s(machine: str) -> None:
    header = Path(HEADERS[machine])
    if not header.is_file():
        pytest.skip(f"no file {header}: the kernel's headers are not installed")
    words = [line.split() for line in header.read_text().splitlines() if line.startswith("#define __NR")]
    known = {word[1].replace("NR3264", "NR").removeprefix("__NR_"): word[2] for word in words if word[2].isdigit()}
    # One call by its two names.
    known["newfstatat"] = known.get("newfstatat", known.get("fstatat", ""))
    column = seccomp.PROCESSORS[machine][1]
    pairs = {name: pair for calls in (*ALLOWED.values(), *ANSWERED.values(), NEVER) for name, pair in calls.items()}
    pairs |= {name: numbers for name, (numbers, _) in PARTLY.items()}
    mine = {name: str(pair[column]) for name, pair in pairs.items() if pair[column] is not None}
    assert {name: (number, known.get(name)) for name, number in mine.items() if known.get(name) != number} == {}
    assert [name for name, pair in pairs.items() if pair[column] is None and name in known] == []
    assert len(mine) > 100


@pytest.mark.skipif(platform.machine() not in seccomp.PROCESSORS, reason="no filter for this processor")
@pytest.mark.slow
def test_numpy_works_behind_the_filter() -> None:
    done = subprocess.run([sys.executable, "-c", BEHIND + NUMPY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


BEHIND = """
import os, resource
from sharelora.sandbox.inside.confine import confine
from sharelora.sandbox.seccomp import calls_filter
limits = {"cpu_seconds": 60, "memory_bytes": 2**33, "processes": 10**6, "file_bytes": 2**24}
confine(limits, calls_filter(), ())
try:
    os.fork()
except PermissionError:
    pass
else:
    raise SystemExit("no filter")
"""
NUMPY = """
import numpy, tempfile
numbers = numpy.random.default_rng(0).normal(size=(500, 500))
assert numpy.allclose(numbers @ numpy.linalg.inv(numbers), numpy.eye(500), atol=1e-6)
assert numpy.allclose(numpy.fft.ifft(numpy.fft.fft(numbers)).real, numbers)
assert (numpy.sort(numbers, axis=0)[0] == numbers.min(axis=0)).all()
with tempfile.TemporaryDirectory() as folder:
    numpy.save(f"{folder}/a.npy", numbers)
    assert (numpy.load(f"{folder}/a.npy", mmap_mode="r+") == numbers).all()
numpy.zeros(2**26).sum()
"""


def test_another_processor_is_named() -> None:
    with pytest.raises(UserError, match=r"found a processor of kind riscv64; need x86_64 or aarch64"):
        seccomp.calls_filter("riscv64")


@pytest.mark.parametrize("name", ["seconds", "cpu_seconds", "memory_bytes", "processes", "file_bytes", "output_bytes"])
def test_a_limit_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"found the limit {name}=0; need more than 0"):
        Limits(**{name: 0})


def test_too_little_memory_for_python_is_refused() -> None:
    with pytest.raises(UserError, match="need at least 67,108,864 for Python itself"):
        Limits(memory_bytes=2**20)


def test_a_detail_is_one_printable_line() -> None:
    found = outcome("error", "a\x1b[31m\n b\u202e" + "c" * 999, 0.5)
    assert found.detail.startswith("a [31m b c") and len(found.detail) == 300 and found.detail.endswith(" ...")
    assert not found.passed and outcome("passed", "", 0.0).passed
    with pytest.raises(ValueError, match="no status"):
        outcome("won", "", 0.0)


def test_the_test_is_the_last_thing_that_a_sandbox_is_given() -> None:
    job = make_job("the program", "assert secret", Limits(), None)
    parts = []
    while job:
        length = int.from_bytes(job[:8], "little")
        parts.append(job[8 : 8 + length])
        job = job[8 + length :]
    code, description, test = parts
    names = [name.rpartition(".")[2] for name, _ in marshal.loads(code)]
    assert names == ["wire", "confine", "worker", "program", "checker"]
    assert json.loads(description)["source"] == "the program" and test == b"assert secret"
    assert b"secret" not in code + description


def test_the_sandbox_needs_the_standard_library_alone() -> None:
    found = set()
    for file, node in itertools.chain.from_iterable(
        ((file, node) for node in ast.walk(ast.parse(file.read_text("utf-8")))) for file in FOLDER.rglob("*.py")
    ):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level
            found.add(node.module)
            inside = "inside" in file.parts and node.module.startswith("sharelora")
            assert not inside or node.module.startswith("sharelora.sandbox.inside"), file
    ours = {name for name in found if name.startswith("sharelora")}
    assert {name for name in ours if not name.startswith("sharelora.sandbox")} == {"sharelora.support.errors"}
    assert {name.split(".")[0] for name in found - ours} <= sys.stdlib_module_names
