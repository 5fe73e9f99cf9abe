"""Peak memory: on a GPU from the allocator, on a CPU from the resident set of this process.

A process never gives back all that it once took, so on a CPU two variants cannot be measured in one.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
from pathlib import Path

import psutil
import torch

from sharelora.reporting.environment import peak_memory


def _give_back() -> None:
    """Make the C library return what was freed; the next measurement would reuse it and seem to need nothing."""
    gc.collect()
    if sys.platform == "linux":
        # Other C libraries than glibc do not have it.
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)


class Peak:
    """The most memory held from its creation on, in bytes.

    Args:
        device: of the model.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = self._reset()

    def _reset(self) -> int:
        if self.device.type == "cuda":
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
            return torch.cuda.max_memory_allocated(self.device)
        status = Path("/proc/self/status")
        resident = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
        # Elsewhere only the peak of the whole process is known, building the model included.
        return int(resident[1]) * 1024 if resident else peak_memory()
