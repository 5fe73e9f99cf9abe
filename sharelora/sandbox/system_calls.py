"""The filter of system calls (seccomp) for untrusted programs: no new process, no signal, no socket.

A limit on memory holds for one process: a program that may start others gets as much memory as it likes, and can leave
something running. Nothing that is scored here needs a second process, so the filter allows threads only. It also blocks
memory that no limit counts (shared memory, anonymous files), the ways from one process into another, and the creation
of namespaces, in which a user is root.
"""

from __future__ import annotations

import errno
import platform
import struct

from sharelora.support.errors import UserError

# The kernel's names of the two processors, and the position of their numbers in the pairs below.
PROCESSORS = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
# Call -> its number on x86_64 and on aarch64, None where the call does not exist.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    # other processes: created, replaced, entered, controlled
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "prctl": (157, 167),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    # signals
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    # memory that no limit counts
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    # the network
    "socket": (41, 198),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    # large parts of the kernel that are often attacked
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
}
# Calls that depend on an argument.
CLONE, CLONE3, PRLIMIT, FCNTL, IOCTL = (56, 220), (435, 435), (302, 261), (72, 25), (16, 29)
CLONE_THREAD = 0x00010000
# Who gets a signal when a file has something to read: F_SETOWN, F_SETOWN_EX; FIOSETOWN, SIOCSPGRP.
FILE_OWNER, DEVICE_OWNER = (8, 15), (0x8901, 0x8902)
X32 = 0x40000000  # a second set of calls on x86_64, from this number on

# Instructions of classic BPF, and offsets into the kernel's `struct seccomp_data`.
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, PROCESSOR, FIRST_ARGUMENT = 0, 4, 16
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000


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
    no = REFUSE | errno.EPERM
    code = [
        _instruction(LOAD, PROCESSOR),
        *_unless(EQUAL, processor, KILL),
        _instruction(LOAD, NUMBER),
        *(_if(AT_LEAST, X32, no) if machine == "x86_64" else []),
        # Its flags are in memory, where a filter cannot see them; told that it does not exist, libraries use clone.
        *_if(EQUAL, CLONE3[column], REFUSE | errno.ENOSYS),
        *(line for pair in REFUSED.values() if (number := pair[column]) is not None for line in _if(EQUAL, number, no)),
        # A new thread is allowed, a new process is not.
        *_look(CLONE[column], 0, _unless(ANY_BIT, CLONE_THREAD, no)),
        # A process may read and lower its own limits (process 0), not those of others.
        *_look(PRLIMIT[column], 0, _unless(EQUAL, 0, no)),
        *_look(FCNTL[column], 1, [line for value in FILE_OWNER for line in _if(EQUAL, value, no)]),
        *_look(IOCTL[column], 1, [line for value in DEVICE_OWNER for line in _if(EQUAL, value, no)]),
        _instruction(RETURN, ALLOW),
    ]
    return b"".join(code)


def _look(number: int, argument: int, tests: list[bytes]) -> list[bytes]:
    """For this call, test one of its arguments, and allow it if no test has given an answer."""
    body = [_instruction(LOAD, FIRST_ARGUMENT + 8 * argument), *tests, _instruction(RETURN, ALLOW)]
    return [_instruction(EQUAL, number, 0, len(body)), *body]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction; jumps are the numbers of instructions to skip."""
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _if(test: int, value: int, answer: int) -> list[bytes]:
    return [_instruction(test, value, 0, 1), _instruction(RETURN, answer)]


def _unless(test: int, value: int, answer: int) -> list[bytes]:
    return [_instruction(test, value, 1, 0), _instruction(RETURN, answer)]
