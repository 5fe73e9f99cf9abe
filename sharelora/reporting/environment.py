"""The environment of a run: command, versions, machine, commit, memory. Nothing heavy is imported for it."""

from __future__ import annotations

import os
import platform
import resource
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from sharelora import __version__
from sharelora.support.secrets import redacted

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets")


def command_line() -> str:
    """Return this process's command line as one would type it, without secrets."""
    return shlex.join(redacted([Path(sys.executable).name, *sys.argv]))


def versions() -> dict[str, str | None]:
    """Return the versions of Python, of this code and of the packages that can change a result; None where absent."""

    def version(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    installed = {package: version(package) for package in PACKAGES}
    return {"python": platform.python_version(), "sharelora": __version__, **installed}


def _cpu_name() -> str:
    # `platform.processor` is empty on Linux.
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpu_names() -> list[str]:
    # Only a process that has imported torch can have used a GPU; importing it here would cost seconds.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def machine_facts() -> dict[str, Any]:
    """Return the machine's CPU, usable cores, RAM in bytes and GPUs."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "ram": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": _gpu_names(),
    }


def matrix_instructions() -> list[str]:
    """Return what the CPU has for 16-bit products: without AMX they are no faster than those in fp32."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text(encoding="utf-8").split()) if info.is_file() else set()
    return sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"})


def git_commit() -> str | None:
    """Return the commit of the checkout that this code runs from, or None for an installed copy."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here.parent), *arguments], capture_output=True, text=True)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A virtual environment may be inside someone else's checkout, whose commit says nothing about this code.
    tracked = git("ls-files", "--error-unmatch", here.name) is not None
    return git("rev-parse", "HEAD") if tracked else None


def peak_memory() -> int:
    """Return the peak memory of this process in bytes: of the GPUs if it used any, else of the CPU."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return sum(torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count()))
    # macOS counts bytes, Linux kilobytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
