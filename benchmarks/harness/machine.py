"""The machine while something is measured: the load that others put on it, and the peak of memory."""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from sharelora.reporting.environment import peak_memory
from sharelora.support.errors import UserError

if TYPE_CHECKING:
    import torch

# Above this share of the machine in use by others, times mean little.
BUSY_PERCENT = 15.0


@dataclass
class OtherLoad:
    """The share of the CPU that others use while the block runs; `percent` holds it afterwards."""

    percent: float = field(default=0.0, init=False)

    def __enter__(self) -> OtherLoad:
        self._before = self._read()
        return self

    def __exit__(self, *exc: object) -> None:
        wall, used, own = (after - before for after, before in zip(self._read(), self._before, strict=True))
        self.percent = round(max(0.0, 100 * (used - own) / max(wall * (psutil.cpu_count() or 1), 1e-9)), 1)

    @staticmethod
    def _read() -> tuple[float, float, float]:
        """Return seconds by the clock, CPU seconds of the whole machine, and those of this process."""
        times, own = psutil.cpu_times(), psutil.Process().cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        # Time of guests is counted in user time as well.
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        return time.perf_counter(), sum(times) - idle - guests, own.user + own.system


def load_sentence(percent: float) -> str:
    """Return a sentence about the load of others for a report, with a warning if it was high."""
    warning = " **Not to be relied on.**" if percent > BUSY_PERCENT else ""
    return f"Others used {percent} % of the machine meanwhile.{warning}"


def others_now(seconds: float = 1.0) -> float:
    """Return the percentage of this machine's CPU that others use at the moment."""
    with OtherLoad() as load:
        time.sleep(seconds)
    return load.percent


def check_load(args: argparse.Namespace) -> float:
    """Refuse to save times of a busy machine, and warn loudly before printing them.

    Args:
        args: the command line, of which `save` and `force` are read.

    Returns:
        The percentage of the CPU that others use.

    Raises:
        UserError: others use the machine and the results are to be saved without --force.
    """
    busy = others_now()
    if busy > BUSY_PERCENT:
        if args.save is not None and not args.force:
            raise UserError(
                f"others use {busy:.0f} % of this machine; times need a quiet one to be saved; "
                "stop them, or pass --force to save all the same"
            )
        print(
            f"\n*** WARNING: others use {busy:.0f} % of this machine. These times mean little, and several threads "
            "that wait for a core can take ten times as long: --threads 1 ***\n",
            file=sys.stderr,
        )
    return busy


class Peak:
    """The most memory held from its creation on, in bytes: of a GPU from the allocator, else the resident set.

    A process never gives back all that it once took, so on a CPU two variants cannot be measured in one.

    Args:
        device: of the model.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = self._reset()

    def _reset(self) -> int:
        if self.device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
            return torch.cuda.memory_allocated(self.device)
        _give_back()
        # Sets the high-water mark of the resident set back to what is held now.
        clear = Path("/proc/self/clear_refs")
        if os.access(clear, os.W_OK):
            clear.write_text("5")
        return psutil.Process().memory_info().rss

    def read(self) -> int:
        """Return the peak so far."""
        if self.device.type == "cuda":
            import torch

            return torch.cuda.max_memory_allocated(self.device)
        status = Path("/proc/self/status")
        resident = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
        # Elsewhere only the peak of the whole process is known, building the model included.
        return int(resident[1]) * 1024 if resident else peak_memory()


def _give_back() -> None:
    """Make the C library return what was freed; the next measurement would reuse it and seem to need nothing."""
    gc.collect()
    if sys.platform == "linux":
        # Other C libraries than glibc do not have it.
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
