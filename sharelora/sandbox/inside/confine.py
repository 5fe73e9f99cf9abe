"""Privileges that a sandboxed process drops for good before untrusted code runs in it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from typing import Any

# Requests to prctl, from linux/prctl.h and linux/seccomp.h.
DIE_WITH_PARENT, SET_DUMPABLE, NO_NEW_PRIVILEGES, SET_FILTER, FILTER_MODE = 1, 4, 38, 22, 2
NO_HUGE_PAGES = 41
# Standard input, output and error, two pipes to the checker, and room for files of the program.
OPEN_FILES = 64


class _FilterProgram(ctypes.Structure):
    """The kernel's `struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def settle(user: int | None, memory_bytes: int) -> None:
    """Protect the checker's process, and its child.

    It becomes another user if it is root; it ends with its parent; no other process of the same user may read its
    memory and its files.

    Args:
        user: id of the user to become; None to stay the same.
        memory_bytes: the most address space.
    """
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    _prctl(DIE_WITH_PARENT, signal.SIGKILL)
    _prctl(SET_DUMPABLE, 0)
    _limit(resource.RLIMIT_AS, memory_bytes)


def confine(limits: dict[str, Any], calls_filter: bytes, keep: tuple[int, ...]) -> None:
    """Limit the program's process, close every file that is not its own, and filter its system calls.

    Args:
        limits: the fields of `Limits`.
        calls_filter: see `system_calls.calls_filter`.
        keep: pipes to the checker.
    """
    # The checker ends after the program; should it crash, the program ends too.
    _prctl(DIE_WITH_PARENT, signal.SIGKILL)
    for descriptor in range(3, OPEN_FILES):
        if descriptor not in keep:
            _close(descriptor)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    # The hard limit is one second later: the signal of the soft one tells why the program ended.
    seconds = limits["cpu_seconds"]
    _limit(resource.RLIMIT_CPU, seconds, seconds + 1)
    _limit(resource.RLIMIT_AS, limits["memory_bytes"])
    _limit(resource.RLIMIT_NPROC, limits["processes"])
    _limit(resource.RLIMIT_FSIZE, limits["file_bytes"])
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    _limit(resource.RLIMIT_CORE, 0)
    # A huge page stays whole as long as a part of it is mapped, and only that part counts.
    with contextlib.suppress(OSError):  # a kernel without huge pages
        _prctl(NO_HUGE_PAGES, 1)
    _prctl(NO_NEW_PRIVILEGES, 1)
    program = _FilterProgram(len(calls_filter) // 8, calls_filter)
    _prctl(SET_FILTER, FILTER_MODE, ctypes.addressof(program))


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        pass


def _limit(kind: int, soft: int, hard: int | None = None) -> None:
    """Lower a limit, unless it is lower already."""
    most = resource.getrlimit(kind)[1]
    hard = soft if hard is None else hard
    resource.setrlimit(kind, (soft, hard) if most == resource.RLIM_INFINITY else (min(soft, most), min(hard, most)))


def _prctl(request: int, *arguments: int) -> None:
    call = ctypes.CDLL(None, use_errno=True).prctl
    call.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    if call(request, *arguments, *[0] * (4 - len(arguments))):
        raise OSError(ctypes.get_errno(), f"prctl {request} is refused: {os.strerror(ctypes.get_errno())}")
