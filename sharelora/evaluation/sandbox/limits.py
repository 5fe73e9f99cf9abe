"""How much a program may use."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sharelora.errors import UserError

MEBIBYTE = 2**20
# Less than this and Python itself does not start.
LEAST_MEMORY = 64 * MEBIBYTE


@dataclass(frozen=True)
class Limits:
    """What one program may use; beyond it, the program is ended or refused, and counts as not passed.

    Args:
        seconds: of wall clock, counted from when the sandbox stands.
        cpu_seconds: of processor time, whole seconds.
        memory_bytes: of address space. The program is one process (see `system_calls`), so this is all that it gets;
            the checker beside it may use as much again.
        processes: threads and processes of the sandbox, the sandbox's own two or three included. In the mode `rlimits`
            all that runs under the same user counts, so that a program can usually start no thread.
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
