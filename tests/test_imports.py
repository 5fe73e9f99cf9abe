"""Every module can be imported where only the required packages are installed, and light modules load nothing heavy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


@pytest.mark.slow
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
    *(
        "evaluation/exams.py",
        "layer_groups/settings.py",
        "layer_groups/grouping.py",
        "layer_groups/show.py",
        "layer_groups/similarity.py",
    ),
    *("memory/advice.py", "memory/estimator.py", "models/known.py", "reporting/compare.py"),
    *("reporting/environment.py", "reporting/history.py", "reporting/pictures.py", "reporting/results.py"),
    *("training/arguments.py", "training/options.py", "training/instructions/options.py", "training/nlg/options.py"),
    *("training/vision/options.py", "training/glue/options.py", "tuner/files.py", "tuner/versions.py"),
    "tuner/hub_kernels.py",
    "tuner/with_peft.py",
)
HEAVY = (
    *("PIL", "accelerate", "bitsandbytes", "datasets", "huggingface_hub", "matplotlib", "numpy", "peft", "sacrebleu"),
    *("safetensors", "scipy", "sklearn", "torch", "transformers"),
)

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


# Runs each program in a child of one interpreter that has loaded the standard library alone. Writes a line for each:
# its exit code, what it loaded of some packages, and what it printed.
RUNNER = """
import argparse, ast, json, os, runpy, sys, tempfile

def run(argv):
    sys.argv = argv[1:] if argv[0] == "-m" else argv
    try:
        if argv[0] == "-m":
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, os.path.dirname(os.path.abspath(argv[0])))
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    return 0

assert not WATCHED & sys.modules.keys() and not [name for name in sys.modules if name.startswith("sharelora")]
for argv in PROGRAMS:
    files = [tempfile.TemporaryFile(mode="w+") for _ in range(3)]
    child = os.fork()
    if child == 0:
        os.dup2(files[1].fileno(), 1)
        os.dup2(files[2].fileno(), 2)
        code = 1
        try:
            code = __import__(argv[1]) and 0 if argv[0] == "import" else run(argv)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        json.dump([code, sorted(WATCHED & sys.modules.keys())], files[0])
        for stream in (sys.stdout, sys.stderr, files[0]):
            stream.flush()
        os._exit(0)
    os.waitpid(child, 0)
    for file in files:
        file.seek(0)
    print(json.dumps([*json.load(files[0]), files[1].read(), files[2].read()]))
"""


def loaded_by(root: Path, programs: Sequence[Sequence[str]], watched: Sequence[str]) -> list[Any]:
    """Run programs, each as if alone; return for each its exit code, what it loaded of `watched`, stdout and stderr.

    Args:
        root: the project's root folder, where they run.
        programs: the words of each: a file or `-m` and a module, then flags; or `import` and a module.
        watched: names of packages.
    """
    done = subprocess.run(
        [sys.executable, "-c", f"PROGRAMS = {programs!r}\nWATCHED = {set(watched)!r}\n{RUNNER}"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_light_modules_load_nothing_heavy(root: Path) -> None:
    names = light_modules(root / "sharelora")
    found = dict(zip(names, loaded_by(root, [["import", name] for name in names], HEAVY), strict=True))
    nothing = {name: [0, [], "", ""] for name in names}
    assert found == {**nothing, "sharelora.support.hub": [0, ["huggingface_hub"], "", ""]}


def test_help_loads_nothing_heavy(root: Path) -> None:
    programs = [*([*command.split(), "--help"] for command in COMMANDS), ["-m", "sharelora", "--version"]]
    found = loaded_by(root, programs, HEAVY)
    assert {
        " ".join(words): (code, heavy, error) for words, (code, heavy, _, error) in zip(programs, found, strict=True)
    } == {" ".join(words): (0, [], "") for words in programs}
    assert all(text for _, _, text, _ in found)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["plan", "estimate"])
def test_counting_loads_the_model_library_alone(root: Path, command: str) -> None:
    program = ["-m", "sharelora", command, "--model", "gpt2", "--share", "a"]
    [(code, loaded, text, error)] = loaded_by(root, [program], ("bitsandbytes", "datasets", "peft", "sklearn"))
    assert (code, loaded, error) == (0, [], "") and "parameters" in text
