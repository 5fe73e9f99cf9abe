"""Every module can be imported where only the required packages are installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

OPTIONAL = (
    "PIL",
    "bitsandbytes",
    "evaluate",
    "hypothesis",
    "lm_eval",
    "loralib",
    "matplotlib",
    "pytest",
    "scipy",
    "sklearn",
)
ENTRY_FOLDERS = ("NLU", "NLG", "qlora_share", "eval", "benchmarks")

# Wraps whatever finds modules, so that the optional packages look uninstalled to `import` and to `find_spec` alike.
PROGRAM = """
import importlib, pkgutil, runpy, sys
from pathlib import Path

class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in OPTIONAL else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
for name in OPTIONAL:
    assert importlib.util.find_spec(name) is None, name

import sharelora
names = [found.name for found in pkgutil.walk_packages(sharelora.__path__, "sharelora.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
for file in FILES:
    runpy.run_path(file, run_name="imported")
assert not [name for name in sys.modules if name.split(".")[0] in OPTIONAL]
print(len(names))
"""


def test_every_module_imports_without_optional_packages(root: Path, tmp_path: Path) -> None:
    files = [str(file) for name in ENTRY_FOLDERS for file in sorted((root / name).rglob("*.py"))]
    program = f"import importlib.util\nOPTIONAL = {OPTIONAL!r}\nFILES = {files!r}\n{PROGRAM}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    # The modules for `evaluate` are in no package: it loads them by their path.
    modules = [file for file in (root / "sharelora").rglob("*.py") if "modules" not in file.parts]
    assert int(done.stdout) == len(modules) - 1
