"""The full sandbox: separate namespaces, made by bubblewrap.

The program sees a read-only Python and its shared libraries, an empty /tmp that is in memory and vanishes with it, and
three devices. There is no network, no other process, no /proc, no home, no environment, and no user's folder.

Started by root, bubblewrap shows another user id inside, but to the kernel the program is still root: it could write to
the settings below /proc/sys, which hold for the whole machine, and no limit on processes would hold for it. So there
the program becomes a user that nobody else is. And there is no /proc, whoever starts it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import sys
from dataclasses import dataclass, fields
from pathlib import Path

from sharelora.support.errors import UserError

PROGRAM = "bwrap"
WEAKER = "or accept a weaker sandbox, where files may be lost, with --sandbox rlimits"
# Folders of shared libraries where the loader looks by itself.
SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
# Not /dev/zero: shared mappings of it are memory that no limit counts.
DEVICES = ("/dev/null", "/dev/random", "/dev/urandom")
NAMESPACES = ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")
# What root needs to become another user, and loses in doing so.
AS_ROOT = ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
AS_USER = ("--unshare-user", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL")
# User ids that no account has: systemd reserves them for users that exist only while a service runs.
UNUSED = range(61184, 65520)
# Where libraries are, and the time zones.
DATA = ("/etc/ld.so.cache", "/usr/share/zoneinfo")
MEBIBYTE = 2**20
LEAST_MEMORY = 64 * MEBIBYTE  # with less, Python itself does not start


@dataclass(frozen=True)
class Limits:
    """What one program may use; beyond that it is ended or refused, and has not passed.

    Args:
        seconds: of wall clock, from when the sandbox has started.
        cpu_seconds: of processor time, whole seconds.
        memory_bytes: of address space. The program is one process (see `system_calls`), so this is all that it gets;
            the checker may use the same amount. Where control groups can be made, both together, with all files and
            with what the kernel needs for them, get no more than that (see `cgroups`).
        processes: threads and processes of the sandbox, with the sandbox's own two or three. In the mode `rlimits`
            everything that the same user runs counts, so that a program can usually start no thread.
        file_bytes: of one file; in the mode `bubblewrap` of all files together.
        output_bytes: of what is printed, standard output and error together.

    Raises:
        UserError: a limit is not positive, or too small for Python to start.
    """

    seconds: float = 10.0
    cpu_seconds: int = 5
    memory_bytes: int = 512 * MEBIBYTE
    processes: int = 32
    file_bytes: int = 16 * MEBIBYTE
    output_bytes: int = MEBIBYTE

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value <= 0:
                raise UserError(f"found the limit {field.name}={value}; need more than 0; leave it out for the default")
        if self.memory_bytes < LEAST_MEMORY:
            raise UserError(
                f"found the limit memory_bytes={self.memory_bytes:,}; need at least {LEAST_MEMORY:,} for Python itself"
            )


DEFAULT = Limits()


@dataclass(frozen=True)
class Interpreter:
    """A Python without the packages of an environment.

    Args:
        executable: its program, all links followed.
        library: the folder that holds its standard library and shared libraries.
        packages: folders of installed packages below `library`.
    """

    executable: Path
    library: Path
    packages: tuple[Path, ...]

    @property
    def words(self) -> list[str]:
        """The command that starts it: no environment variables, no current folder on the path, no site-packages."""
        return [str(self.executable), "-I", "-S"]


@dataclass(frozen=True)
class Start:
    """How to start a sandbox.

    Args:
        words: the command, up to Python and its flags; the code to run comes after it.
        user: id of the user that the program becomes; None to stay the same.
    """

    words: list[str]
    user: int | None


def find_interpreter() -> Interpreter:
    """Find the Python that this environment was created with, to run programs without any package.

    Raises:
        UserError: it is not where it should be.
    """
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    executable = (Path(sys.base_prefix) / "bin" / name).resolve()
    if not executable.is_file():
        raise UserError(
            f"found no Python at {executable}; need the one that this environment was created with, to run programs "
            "in; create the environment again"
        )
    standard = Path(os.__file__).resolve().parent
    packages = [folder for folder in standard.glob("*-packages") if folder.is_dir() and not folder.is_symlink()]
    return Interpreter(executable, standard.parent, tuple(sorted(packages)))


def another_user(library: Path, whole_path: bool) -> int | None:
    """Choose a user for root's programs, so that they do not run as root: an id that nobody has.

    Each program gets another one, as a limit on processes holds for all processes of a user together.

    Args:
        library: what that user must be able to read.
        whole_path: whether the folders above it must be open to that user too.

    Returns:
        Its id; None if this process is not root, or if the user could not read the library.
    """
    above = library.resolve().parents if whole_path else ()
    can_enter = all(folder.stat().st_mode & stat.S_IXOTH for folder in (library, *above))
    can_read = can_enter and library.stat().st_mode & stat.S_IROTH
    return secrets.choice(UNUSED) if os.geteuid() == 0 and can_read else None


def prepare(limits: Limits) -> Start:
    """Return how to start a sandbox.

    Raises:
        UserError: bubblewrap is missing, or other users cannot read root's Python.
    """
    bubblewrap, python, root = shutil.which(PROGRAM), find_interpreter(), os.geteuid() == 0
    if bubblewrap is None:
        raise UserError(
            f"found no program {PROGRAM}; need bubblewrap 0.7 or newer, to run programs in a sandbox; install it "
            f"(apt install bubblewrap, dnf install bubblewrap), {WEAKER}"
        )
    user = another_user(python.library, whole_path=False)
    if root and user is None:
        raise UserError(
            f"found {python.library} closed to other users; need it readable, as root does not run programs as root; "
            f"chmod -R o+rX {python.library}"
        )
    isolated = ("--die-with-parent", "--new-session", "--clearenv", *NAMESPACES, *(AS_ROOT if root else AS_USER))
    own_files = ("--size", str(limits.file_bytes), "--perms", "1777", "--tmpfs", "/tmp")
    files = (*_system(), *own_files, *_python(python), "--remount-ro", "/", "--chdir", "/tmp")
    return Start([bubblewrap, *isolated, "--hostname", "sandbox", *files, "--", *python.words], user)


def _system() -> list[str]:
    """Shared libraries and devices."""
    # Folders that bubblewrap creates only as parents of something else would be closed to the user inside.
    words = [word for folder in ("/usr", "/usr/share", "/etc", "/dev") for word in ("--dir", folder)]
    for folder in SYSTEM:
        if os.path.islink(folder):
            words += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            words += ["--ro-bind", folder, folder]
    for device in DEVICES:
        words += ["--dev-bind", device, device]
    for path in DATA:
        words += ["--ro-bind-try", path, path]
    return words


def _python(python: Interpreter) -> list[str]:
    """Python at its own path, by which it finds itself; empty folders over all installed packages."""
    words: list[str] = []
    for path in (python.executable, python.library):
        words += ["--dir", str(path.parent), "--ro-bind", str(path), str(path)]
    system = [path for folder in SYSTEM[:2] for path in Path(folder).glob("python3*/*-packages") if path.is_dir()]
    for packages in sorted({*python.packages, *system}):
        words += ["--tmpfs", str(packages), "--remount-ro", str(packages)]
    return words
