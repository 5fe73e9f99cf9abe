"""The parts of the sandbox that need no sandbox: values in messages, the filter of system calls, limits, outcomes."""

from __future__ import annotations

import ast
import errno
import itertools
import json
import marshal
import struct
import sys
from collections import Counter, OrderedDict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from sharelora import sandbox
from sharelora.sandbox import Limits, system_calls
from sharelora.sandbox.inside.wire import LONGEST_MESSAGE, CannotBeSent, TooLong, decode, encode, send
from sharelora.sandbox.running import make_job, outcome
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


@pytest.mark.parametrize("value", [object(), len, lambda: 0, [{1: (object,)}], sys])
def test_what_is_not_plain_cannot_be_sent(value: Any) -> None:
    with pytest.raises(CannotBeSent, match="has no meaning for a test"):
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
        if operation == system_calls.RETURN:
            return value
        if operation == system_calls.LOAD:
            loaded = struct.unpack_from("<I", data, value)[0]
            continue
        tests = {
            system_calls.EQUAL: loaded == value,
            system_calls.AT_LEAST: loaded >= value,
            system_calls.ANY_BIT: bool(loaded & value),
        }
        place += if_true if tests[operation] else if_false


NO = system_calls.REFUSE | errno.EPERM
# Numbers on both processors of calls that every program needs: read, write, mmap, exit_group.
NEEDED = {"x86_64": (0, 1, 9, 231), "aarch64": (63, 64, 222, 94)}


@pytest.mark.parametrize("machine", system_calls.PROCESSORS)
def test_the_filter_lets_threads_through_and_nothing_else_of_what_it_names(machine: str) -> None:
    code, (processor, column) = system_calls.calls_filter(machine), system_calls.PROCESSORS[machine]

    def ask(number: int, *arguments: int) -> int:
        return answer(code, number, arguments, processor)

    numbers = [pair[column] for pair in system_calls.REFUSED.values()]
    assert [number for number in numbers if number is not None and ask(number) != NO] == []
    assert [number for number in NEEDED[machine] if ask(number) != system_calls.ALLOW] == []
    assert ask(system_calls.CLONE[column], 17) == NO  # what `fork` does
    assert ask(system_calls.CLONE[column], 0x3D0F00) == system_calls.ALLOW  # what starting a thread does
    assert ask(system_calls.CLONE3[column], 0) == system_calls.REFUSE | errno.ENOSYS
    assert (ask(system_calls.PRLIMIT[column], 0), ask(system_calls.PRLIMIT[column], 1)) == (system_calls.ALLOW, NO)
    assert (ask(system_calls.FCNTL[column], 3, 2), ask(system_calls.FCNTL[column], 3, 8)) == (system_calls.ALLOW, NO)
    assert (ask(system_calls.IOCTL[column], 3, 0x5401), ask(system_calls.IOCTL[column], 3, 0x8901)) == (
        system_calls.ALLOW,
        NO,
    )
    assert answer(code, NEEDED[machine][0], (), 0x40000003) == system_calls.KILL  # the calls of another processor
    if machine == "x86_64":
        assert ask(system_calls.X32 + 1) == NO


HEADERS = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "/usr/include/asm-generic/unistd.h"}


@pytest.mark.parametrize("machine", system_calls.PROCESSORS)
def test_the_numbers_are_the_kernel_s(machine: str) -> None:
    header = Path(HEADERS[machine])
    if not header.is_file():
        pytest.skip(f"no file {header}: the kernel's headers are not installed")
    words = [line.split() for line in header.read_text().splitlines() if line.startswith("#define __NR")]
    known = {word[1].replace("NR3264", "NR").removeprefix("__NR_"): word[2] for word in words if word[2].isdigit()}
    column = system_calls.PROCESSORS[machine][1]
    by_argument = {name: getattr(system_calls, name.upper()) for name in ("clone", "clone3", "fcntl", "ioctl")}
    pairs = {**system_calls.REFUSED, **by_argument, "prlimit64": system_calls.PRLIMIT}
    mine = {name: str(pair[column]) for name, pair in pairs.items() if pair[column] is not None}
    assert {name: number for name, number in mine.items() if known.get(name, number) != number} == {}
    assert len(set(mine) & set(known)) > 50


def test_another_processor_is_named() -> None:
    with pytest.raises(UserError, match=r"found a processor of kind riscv64; need x86_64 or aarch64"):
        system_calls.calls_filter("riscv64")


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
