"""This machine: its memory, GPUs and free disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from sharelora.support.errors import UserError, out_of_memory
from sharelora.support.text import size

_CGROUP = Path("/sys/fs/cgroup")


def ran_out(error: BaseException, need: str, advice: str) -> UserError:
    """Return the one line for an error that says that memory ran out.

    Args:
        error: that error.
        need: how much is needed.
        advice: what to do.
    """
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(f"memory ran out ({reason}); need {need}; {advice}")


@contextmanager
def memory_errors(words: Callable[[], tuple[str, str]]) -> Iterator[None]:
    """Turn an error of the block that says that memory ran out into one line.

    Args:
        words: what is needed and what to do, asked for only then; see `ran_out`.

    Raises:
        UserError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise ran_out(error, *words()) from error


@contextmanager
def room_for(name: object, flag: str) -> Iterator[None]:
    """Turn an error of a block that loads a model into one line, if it says that memory ran out.

    Args:
        name: of the model.
        flag: with a value, of a smaller precision.

    Raises:
        UserError: memory ran out.
    """
    advice = f"use {flag}, a smaller model, or a device with more memory"
    with memory_errors(lambda: (f"more to load {name}", advice)):
        yield


@dataclass(frozen=True)
class Gpu:
    """One GPU: its name, and its memory in bytes."""

    name: str
    total: int
    free: int


@dataclass(frozen=True)
class Machine:
    """Memory, disk and GPUs, in bytes.

    Attributes:
        ram: memory of the machine.
        ram_free: memory that a new process can still take.
        disk_free: free disk of the folder for results.
        gpus: every GPU that torch can use.
    """

    ram: int
    ram_free: int
    disk_free: int
    gpus: tuple[Gpu, ...] = ()

    @property
    def device(self) -> str:
        """Where training would run: `cuda` or `cpu`."""
        return "cuda" if self.gpus else "cpu"

    def free(self, device: str) -> int:
        """Return the memory for training there: of all GPUs together (layers can be spread over them), or of the CPU.

        Args:
            device: `cuda` or `cpu`.
        """
        return self.ram_free if device == "cpu" else sum(gpu.free for gpu in self.gpus)

    def describe(self) -> str:
        """Return all of it in a few words."""
        gpus = "".join(f"; {gpu.name} with {size(gpu.free)} of {size(gpu.total)} free" for gpu in self.gpus)
        free = f"{size(self.ram_free)} of {size(self.ram)} RAM free, {size(self.disk_free)} on the disk"
        return free + (gpus or "; no GPU")


def _container_free() -> int | None:
    """Return what a container's limit leaves, or None without a limit: psutil sees the whole machine."""
    limit, used = (_CGROUP / name for name in ("memory.max", "memory.current"))
    if not limit.is_file() or not used.is_file():
        return None
    text = limit.read_text().strip()
    return max(0, int(text) - int(used.read_text())) if text.isdigit() else None


def machine(folder: str | Path = ".") -> Machine:
    """Look at this machine.

    Args:
        folder: for results; it need not exist yet.
    """
    import torch  # parsers import this module through the estimate

    path = Path(folder).resolve()
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    memory = psutil.virtual_memory()
    container = _container_free()
    gpus = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        gpus.append(Gpu(torch.cuda.get_device_name(index), total, free))
    return Machine(
        ram=memory.total,
        ram_free=memory.available if container is None else min(memory.available, container),
        disk_free=shutil.disk_usage(existing).free,
        gpus=tuple(gpus),
    )
