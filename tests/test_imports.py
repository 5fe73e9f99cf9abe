"""Every module can be imported where only the required packages are installed, and light modules load nothing heavy."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import sharelora.cli

ROOT = Path(__file__).resolve().parent.parent
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
# pytest alone loads it.
PYTEST_PLUGIN = ROOT / "benchmarks/peft_suite/plugin.py"
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
    found = (file for name in ENTRY_FOLDERS for file in sorted((root / name).rglob("*.py")))
    files = [str(file) for file in found if file != PYTEST_PLUGIN]
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


# Whole rooms, and files of others, that parsers and commands need before anything is computed.
LIGHT = (
    *("cli", "flags", "plan", "sandbox", "support", "data/arguments.py", "data/registry.py", "evaluation/commands.py"),
    *("layer_groups/settings.py", "layer_groups/grouping.py", "layer_groups/show.py", "layer_groups/similarity.py"),
    *("memory/advice.py", "memory/estimator.py", "models/known.py", "reporting/compare.py"),
    *("reporting/environment.py", "reporting/history.py", "reporting/pictures.py", "reporting/results.py"),
    *("training/arguments.py", "training/options.py", "training/instructions/options.py", "training/nlg/options.py"),
    *("training/vision/options.py", "training/glue/options.py", "tuner/files.py", "tuner/versions.py"),
    "tuner/with_peft.py",
)
HEAVY = (
    *("PIL", "accelerate", "bitsandbytes", "datasets", "matplotlib", "numpy", "peft", "sacrebleu", "safetensors"),
    *("scipy", "sklearn", "torch", "transformers"),
)

# CPU seconds that the help of a command may take; they take 0.05 to 0.2.
HELP_SECONDS = 0.5
PROGRAMS = ("NLU", "NLG", "qlora_share", "eval")
COMMANDS = (
    *(f"{name}/{file.name}" for name in PROGRAMS for file in sorted((ROOT / name).glob("*.py"))),
    *("-m sharelora", *(f"-m sharelora {name}" for name in sharelora.cli.COMMANDS)),
)


def light_modules(package: Path) -> list[str]:
    """The dotted names of all light modules."""
    paths = [package / name for name in LIGHT]
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
    names = [".".join(file.relative_to(package.parent).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names]


@pytest.mark.parametrize("name", light_modules(ROOT / "sharelora"))
def test_a_light_module_loads_nothing_heavy(root: Path, name: str) -> None:
    program = f"import sys, {name}\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_comes_at_once(root: Path, command: str) -> None:
    program = [sys.executable, *command.split(), "--help"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(program, cwd=root, env=env, capture_output=True, text=True, timeout=240)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and done.stdout and not done.stderr, done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime <= HELP_SECONDS
