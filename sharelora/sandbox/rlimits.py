"""The weaker sandbox: limits and a filter of system calls, but the user's own files and machine.

As in the full one there are no new processes, no signals, no sockets, limits on time, memory, output and the size of a
file, no environment and no packages. But the program reads, changes and deletes what its user may read, change and
delete, files that it writes stay, without a limit on their number and also in memory (/dev/shm), and it sees all that
runs. Root cannot be kept from starting threads. And with some skill it can forge a pass: the processes that hold the
verdict belong to the same user.
"""

from __future__ import annotations

import functools
import logging
import os

from sharelora.sandbox.isolation import Limits, Start, another_user, find_interpreter

logger = logging.getLogger(__name__)


def prepare(limits: Limits) -> Start:
    """Return how to start a sandbox, and warn, once, of what it does not do.

    Args:
        limits: set from inside, all of them.
    """
    python = find_interpreter()
    # Root becomes another user only where that user can read Python, which may be in root's home.
    user = another_user(python.library, whole_path=True)
    warn("another user" if user is not None else "root" if os.geteuid() == 0 else "you")
    return Start(python.words, user)


@functools.cache
def warn(who: str) -> None:
    """Warn that files are not safe.

    Args:
        who: the user as whom programs run.
    """
    logger.warning(
        "WARNING: --sandbox rlimits does not protect files. Untrusted programs run as %s: they can read, change and "
        "delete all that %s can. Use it only in a container, or on a machine, that you can afford to lose.",
        who,
        who,
    )
