"""The package `kernels`, where it is installed, fetches nothing unless somebody asks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# As bitsandbytes does it when it is imported on some CPUs, and at first use on a Mac.
CPU = """
try:
    from kernels import get_kernel
    found = get_kernel("somebody/kernels")
except Exception as error:
    found = type(error).__name__
"""
MPS = """
_kernel_load_failed = False
def get():
    if _kernel_load_failed:
        return "none"
    from kernels import get_kernel
    return get_kernel("somebody/kernels")
"""
PROGRAM = """
import os, sharelora
from bitsandbytes.backends.cpu import ops as cpu
from bitsandbytes.backends.mps import ops as mps
print(cpu.found, mps.get(), os.environ["USE_HUB_KERNELS"])
import kernels  # whoever wants it for something else has it
"""


def packages(folder: Path) -> None:
    for name in ("bitsandbytes", "bitsandbytes/backends", "bitsandbytes/backends/cpu", "bitsandbytes/backends/mps"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").touch()
    (folder / "bitsandbytes/backends/cpu/ops.py").write_text(CPU)
    (folder / "bitsandbytes/backends/mps/ops.py").write_text(MPS)
    fetches(folder)


def fetches(folder: Path) -> None:
    (folder / "kernels.py").write_text("def get_kernel(*args, **options):\n    return 'fetched'\n")


def run(folder: Path, program: str, asked: str | None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "USE_HUB_KERNELS"}
    environment |= {"PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    environment |= {} if asked is None else {"USE_HUB_KERNELS": asked}
    command = [sys.executable, "-W", "ignore", "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.parametrize(
    ("asked", "said"),
    [(None, "ModuleNotFoundError none NO"), ("0", "ModuleNotFoundError none 0"), ("1", "fetched fetched 1")],
)
def test_kernels_are_fetched_only_if_asked_for(tmp_path: Path, root: Path, asked: str | None, said: str) -> None:
    packages(tmp_path)
    assert run(tmp_path, f"import sys; sys.path.append({str(root)!r})\n{PROGRAM}", asked).strip() == said


REAL = """
import sharelora, sys
import kernels
fetched = []
kernels.get_kernel = lambda *args, **options: fetched.append(args)
import bitsandbytes, bitsandbytes.backends.cpu.ops, bitsandbytes.backends.mps.ops
from transformers.integrations import hub_kernels
print(fetched, bitsandbytes.backends.mps.ops._kernel_load_failed, hub_kernels._kernels_enabled)
"""


@pytest.mark.slow
def test_the_real_packages_fetch_nothing(tmp_path: Path, root: Path) -> None:
    fetches(tmp_path)
    assert run(tmp_path, f"import sys; sys.path.append({str(root)!r})\n{REAL}", None).strip() == "[] True False"
