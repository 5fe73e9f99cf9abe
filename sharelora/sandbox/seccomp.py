"""The kernel's filter (seccomp) of the system calls that `system_calls` allows: a program of classic BPF."""

from __future__ import annotations

import platform
import struct

from sharelora.sandbox.system_calls import ALLOW, ALLOWED, ANSWERED, DONE, KILL, PARTLY, UNKNOWN, Condition
from sharelora.support.errors import UserError

# The kernel's names of the two processors, and the position of their numbers in `Numbers`.
PROCESSORS = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
# Instructions, and offsets into the kernel's `struct seccomp_data`.
LOAD, AND, EQUAL, RETURN = 0x20, 0x54, 0x15, 0x06
NUMBER, PROCESSOR, FIRST_ARGUMENT = 0, 4, 16


def calls_filter(machine: str | None = None) -> bytes:
    """Return the filter as the kernel wants it: instructions of 8 bytes.

    Args:
        machine: the processor, as `platform.machine` names it; None for this one.

    Raises:
        UserError: the filter does not know the processor.
    """
    machine = machine or platform.machine()
    if machine not in PROCESSORS:
        raise UserError(
            f"found a processor of kind {machine}; need {' or '.join(PROCESSORS)}, whose system calls the sandbox can "
            "filter; score the programs on another machine"
        )
    processor, column = PROCESSORS[machine]
    answers = [(ALLOW, calls) for calls in ALLOWED.values()] + list(ANSWERED.items())
    code = [
        _instruction(LOAD, PROCESSOR),
        _instruction(EQUAL, processor, 1, 0),
        _instruction(RETURN, KILL),
        _instruction(LOAD, NUMBER),
        *(line for numbers, conditions in PARTLY.values() for line in _call(numbers[column], _conditions(conditions))),
        *(
            line
            for answer, calls in answers
            for call in calls.values()
            for line in _call(call[column], _answer(answer))
        ),
        *_answer(UNKNOWN),
    ]
    return b"".join(code)


def _call(number: int | None, body: list[bytes]) -> list[bytes]:
    """For this call alone, do what `body` says, which ends with an answer."""
    return [] if number is None else [_instruction(EQUAL, number, 0, len(body)), *body]


def _conditions(conditions: tuple[Condition, ...]) -> list[bytes]:
    return [*(line for condition in conditions for line in _condition(condition)), *_answer(ALLOW)]


def _condition(condition: Condition) -> list[bytes]:
    """Answer if the condition does not hold; go on behind it if it does."""
    # Arguments are 64 bits wide. The kernel reads the lower half of those that are looked at here.
    load = [_instruction(LOAD, FIRST_ARGUMENT + 8 * condition.argument)]
    masked = [] if condition.mask is None else [_instruction(AND, condition.mask)]
    done = [line for value in condition.done for line in (_instruction(EQUAL, value, 0, 1), *_answer(DONE))]
    # Behind a value come those after it, and the answer to all others.
    left = len(condition.values)
    allowed = [_instruction(EQUAL, value, left - index, 0) for index, value in enumerate(condition.values)]
    return [*load, *masked, *done, *allowed, *_answer(condition.otherwise)]


def _answer(answer: int) -> list[bytes]:
    return [_instruction(RETURN, answer)]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction; jumps are the numbers of instructions to skip."""
    return struct.pack("<HBBI", code, if_true, if_false, value)
