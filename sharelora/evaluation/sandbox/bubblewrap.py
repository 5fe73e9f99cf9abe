"""The full sandbox: namespaces of its own, made by bubblewrap.

The program sees a read-only Python and its shared libraries, an empty /tmp that exists in memory and vanishes with it,
and four devices. There is no network, no other process, no /proc, no home, no environment, and no folder of anybody's.

Where root starts it, bubblewrap shows the user inside another number, but to the kernel it is still root: it may write
into the settings below /proc/sys, which hold for the whole machine, and no limit on processes holds for it. So there
the program becomes a user that nobody else is. And there is no /proc, whoever starts it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sharelora.errors import UserError
from sharelora.evaluation.sandbox.interpreter import Interpreter, Start, another_user, find_interpreter
from sharelora.evaluation.sandbox.limits import Limits

PROGRAM = "bwrap"
WEAKER = "or accept a weaker sandbox, where files may be lost, with --sandbox rlimits"
# Folders of shared libraries, in places where the loader looks by itself.
SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
ALONE = ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")
# What root needs to become another user, and loses in doing so.
AS_ROOT = ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
AS_USER = ("--unshare-user", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL")


def prepare(limits: Limits) -> Start:
    """Return how a sandbox is started.

    Raises:
        UserError: bubblewrap is missing, or root's Python cannot be read by anybody else.
    """
    found, python, root = shutil.which(PROGRAM), find_interpreter(), os.geteuid() == 0
    if found is None:
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
    alone = ("--die-with-parent", "--new-session", "--clearenv", *ALONE, *(AS_ROOT if root else AS_USER))
    files = (*_system(), *_own_files(limits), *_python(python), "--remount-ro", "/", "--chdir", "/tmp")
    return Start([found, *alone, "--hostname", "sandbox", *files, "--", *python.words], user)


def _system() -> list[str]:
    """Shared libraries and devices."""
    # Folders that bubblewrap makes on the way to something else are closed to the user inside.
    words = [word for folder in ("/usr", "/etc", "/dev") for word in ("--dir", folder)]
    for folder in SYSTEM:
        if os.path.islink(folder):
            words += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            words += ["--ro-bind", folder, folder]
    for device in DEVICES:
        words += ["--dev-bind", device, device]
    return [*words, "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]


def _own_files(limits: Limits) -> list[str]:
    return ["--size", str(limits.file_bytes), "--perms", "1777", "--tmpfs", "/tmp"]


def _python(python: Interpreter) -> list[str]:
    """Python where it is outside, as it knows itself by its path; empty folders over all installed packages."""
    words: list[str] = []
    for path in (python.executable, python.library):
        words += ["--dir", str(path.parent), "--ro-bind", str(path), str(path)]
    beside = [path for folder in SYSTEM[:2] for path in Path(folder).glob("python3*/*-packages") if path.is_dir()]
    for packages in sorted({*python.packages, *beside}):
        words += ["--tmpfs", str(packages), "--remount-ro", str(packages)]
    return words
