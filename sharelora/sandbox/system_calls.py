"""The system calls that an untrusted program may use: what Python, its standard library and NumPy need, and no others.

A call that is not here does not exist for the program: it fails with ENOSYS, for which libraries have older ways. So
nothing that a later kernel adds is open by default. A limit on memory holds for one process and what is mapped into it.
So there are threads but no processes, and no call that leaves memory elsewhere: in pipes (`vmsplice`), in anonymous
files, in mappings that can be shared, in rings and queues of the kernel. Nor are there calls that reach other
processes, the network, mounts, or the whole machine (`sync`).

`seccomp` makes the kernel's filter of these tables.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

# Number of a call on x86_64 and on aarch64; None where there is no such call.
Numbers = tuple[int | None, int | None]

# Answers of the kernel's filter: let the call through, or have it fail with an error; error 0 is success.
ALLOW, FAIL, KILL = 0x7FFF0000, 0x00050000, 0x80000000
DONE, REFUSED, UNKNOWN = FAIL, FAIL | errno.EPERM, FAIL | errno.ENOSYS


def _calls(text: str) -> dict[str, Numbers]:
    rows = (row.split() for row in text.split(","))
    return {name: (_number(first), _number(second)) for name, first, second in rows}


def _number(text: str) -> int | None:
    return None if text == "-" else int(text)


# Why a program needs them -> calls that are allowed whole: name, number on x86_64, number on aarch64.
ALLOWED = {
    "memory": _calls("brk 12 214, munmap 11 215, mremap 25 216, mprotect 10 226"),
    "threads and the end": _calls(
        "set_tid_address 218 96, set_robust_list 273 99, rseq 334 293, exit 60 93, exit_group 231 94, "
        "sched_yield 24 124, sched_getaffinity 204 123, getcpu 309 168, restart_syscall 219 128"
    ),
    "time": _calls(
        "clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115, nanosleep 35 101, "
        "gettimeofday 96 169, time 201 -, times 100 153, getrusage 98 165"
    ),
    "signals to itself, timers": _calls(
        "rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136, "
        "rt_sigsuspend 130 133, rt_sigtimedwait 128 137, sigaltstack 131 132, pause 34 -, alarm 37 -, "
        "setitimer 38 103, getitimer 36 102"
    ),
    "reading and writing": _calls(
        "read 0 63, readv 19 65, pread64 17 67, preadv 295 69, write 1 64, writev 20 66, pwrite64 18 68, "
        "pwritev 296 70, lseek 8 62, open 2 -, openat 257 56, close 3 57, close_range 436 436, dup 32 23, "
        "dup2 33 -, dup3 292 24, truncate 76 45, ftruncate 77 46"
    ),
    "files and folders": _calls(
        "stat 4 -, fstat 5 80, lstat 6 -, newfstatat 262 79, statx 332 291, statfs 137 43, fstatfs 138 44, "
        "access 21 -, faccessat 269 48, faccessat2 439 439, readlink 89 -, readlinkat 267 78, getdents64 217 61, "
        "getcwd 79 17, chdir 80 49, fchdir 81 50, mkdir 83 -, mkdirat 258 34, rmdir 84 -, unlink 87 -, "
        "unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276, symlink 88 -, symlinkat 266 36, "
        "chmod 90 -, fchmod 91 52, fchmodat 268 53, umask 95 166, utimensat 280 88"
    ),
    "waiting; asyncio": _calls(
        "pipe 22 -, pipe2 293 59, poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, epoll_create1 291 20, "
        "epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22"
    ),
    "its own pairs of sockets": _calls(
        "sendto 44 206, recvfrom 45 207, shutdown 48 210, getsockname 51 204, getpeername 52 205, getsockopt 55 209"
    ),
    "facts": _calls(
        "getrandom 318 278, getpid 39 172, getppid 110 173, gettid 186 178, getuid 102 174, geteuid 107 175, "
        "getgid 104 176, getegid 108 177, getgroups 115 158, uname 63 160, sysinfo 99 179, getrlimit 97 163"
    ),
}

# Answer -> calls that always get it.
ANSWERED = {
    # What has been meant by its author: the error says plainly that it is refused.
    REFUSED: _calls(
        "fork 57 -, vfork 58 -, execve 59 221, execveat 322 281, kill 62 129, tkill 200 130, tgkill 234 131, "
        "setsid 112 157, setpgid 109 154, socket 41 198, unshare 272 97, chroot 161 51, setuid 105 146, "
        "link 86 -, linkat 265 37, mknod 133 -, mknodat 259 33, memfd_create 319 279"
    ),
    # Its files are in memory and its own, so that there is nothing to write back and nobody to lock out. The kernel
    # would lock, and write back, the machine's files as well.
    DONE: _calls(
        "flock 73 32, fsync 74 82, fdatasync 75 83, sync 162 81, syncfs 306 267, sync_file_range 277 84, msync 26 227"
    ),
    # As on a file system without extended attributes: `shutil.copy2` accepts no other error.
    FAIL | errno.EOPNOTSUPP: _calls(
        "listxattr 194 11, llistxattr 195 12, flistxattr 196 13, getxattr 191 8, lgetxattr 192 9, "
        "fgetxattr 193 10, setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7"
    ),
}


@dataclass(frozen=True)
class Condition:
    """What an argument of a call must be.

    Args:
        argument: its position.
        values: those that are allowed.
        otherwise: the answer to others.
        done: values that are answered as if they had been done.
        mask: the bits that are compared; None for all 32.
    """

    argument: int
    values: tuple[int, ...]
    otherwise: int
    done: tuple[int, ...] = ()
    mask: int | None = None


# MAP_SHARED, MAP_ANONYMOUS, MAP_HUGETLB
SHARED, ANONYMOUS, HUGE = 0x1, 0x20, 0x40000
# Calls that are allowed in part: if all conditions hold. Values are those of the kernel's headers.
PARTLY: dict[str, tuple[Numbers, tuple[Condition, ...]]] = {
    # Memory that is shared outlives its mapping: a page that is kept keeps all of it.
    "mmap": (
        (9, 222),
        (Condition(3, (0, ANONYMOUS, SHARED), FAIL | errno.ENOMEM, mask=SHARED | ANONYMOUS | HUGE),),
    ),
    # Only advice by which memory becomes less or stays, or that guards a thread's stack; not MADV_HUGEPAGE.
    "madvise": ((28, 233), (Condition(2, (0, 1, 2, 3, 4, 8, 15, 16, 17, 18, 102, 103), FAIL | errno.EINVAL),)),
    # The process's own barrier, for which it registers.
    "membarrier": ((324, 283), (Condition(0, (8, 16), FAIL | errno.EINVAL),)),
    # The flags with which glibc and musl start a thread: no other process, no namespace.
    "clone": ((56, 220), (Condition(0, (0x3D0F00, 0x7D0F00), REFUSED),)),
    # Wait, wake, and requeue, with and without a bit set; not the kinds that hand priority on.
    "futex": ((202, 98), (Condition(1, (0, 1, 3, 4, 5, 9, 10), UNKNOWN, mask=0x7F),)),
    # PR_SET_NAME, PR_GET_NAME: of a thread.
    "prctl": ((157, 167), (Condition(0, (15, 16), REFUSED),)),
    # A process may read and lower its own limits (process 0), not those of others.
    "prlimit64": ((302, 261), (Condition(0, (0,), REFUSED),)),
    # Duplicates, flags, who holds a lock, the size of a pipe. Locks are taken as by `flock` above.
    "fcntl": ((72, 25), (Condition(1, (0, 1, 2, 3, 4, 5, 36, 1030, 1032), FAIL | errno.EINVAL, done=(6, 7, 37, 38)),)),
    # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
    "ioctl": ((16, 29), (Condition(1, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451), FAIL | errno.ENOTTY),)),
    # AF_UNIX, SOCK_STREAM with SOCK_CLOEXEC and SOCK_NONBLOCK: connected to itself, and to no name.
    "socketpair": ((53, 199), (Condition(0, (1,), REFUSED), Condition(1, (1,), REFUSED, mask=~0x80800 & 0xFFFFFFFF))),
}
