"""The Python that runs programs: the one below this one, without any package."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from sharelora.errors import UserError

# Numbers that no account has: systemd keeps them for users that exist for the time of a service.
UNUSED = range(61184, 65520)


@dataclass(frozen=True)
class Interpreter:
    """A Python without the packages of an environment.

    Args:
        executable: its program, all links followed.
        library: the folder that holds its standard library's folder and the shared libraries beside it.
        packages: folders of installed packages below `library`.
    """

    executable: Path
    library: Path
    packages: tuple[Path, ...]

    @property
    def words(self) -> list[str]:
        """How it is started: no environment variables, no folder of its own on the path, no site-packages."""
        return [str(self.executable), "-I", "-S"]


@dataclass(frozen=True)
class Start:
    """How a sandbox is started.

    Args:
        words: the command, up to Python and its flags; the code to run is still to be added.
        user: number of the user that the program becomes; None for the one it is.
    """

    words: list[str]
    user: int | None


def find_interpreter() -> Interpreter:
    """Find the Python that this environment was made with.

    Raises:
        UserError: it is not where it says that it is.
    """
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    executable = (Path(sys.base_prefix) / "bin" / name).resolve()
    if not executable.is_file():
        raise UserError(
            f"found no Python at {executable}; need the one that this environment was made with, to run programs in; "
            "make the environment anew"
        )
    standard = Path(os.__file__).resolve().parent
    packages = [folder for folder in standard.glob("*-packages") if folder.is_dir() and not folder.is_symlink()]
    return Interpreter(executable, standard.parent, tuple(sorted(packages)))


def another_user(library: Path, whole_path: bool) -> int | None:
    """Choose a user for root's programs, so that they do not run as root: a number that nobody has.

    It is another one for each program, as a limit on processes holds for all processes of a user together.

    Args:
        library: what that user must be able to read.
        whole_path: whether the folders above it must be open to that user too.

    Returns:
        Its number; None if this process is not root, or if the user could not read the library.
    """
    above = library.resolve().parents if whole_path else ()
    can_enter = all(folder.stat().st_mode & stat.S_IXOTH for folder in (library, *above))
    can_read = can_enter and library.stat().st_mode & stat.S_IROTH
    return secrets.choice(UNUSED) if os.geteuid() == 0 and can_read else None
