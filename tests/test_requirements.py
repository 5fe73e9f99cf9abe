"""What the project imports is what it says it needs, in exact versions that pyproject.toml allows."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("sharelora", "qlora_share", "eval", "NLU", "NLG")
PACKAGES = {"yaml": "pyyaml", "sklearn": "scikit-learn", "PIL": "pillow"}
# Run only by `evaluate` itself, so only where it is installed.
EVALUATE_MODULES = ROOT / "sharelora" / "metrics" / "modules"

# Large, and used by one benchmark, engine or flag alone: whoever wants that installs it.
NOT_INSTALLED = {"ctranslate2", "deepspeed", "lm-eval", "torchvision", "vllm"}


def pins(name: str) -> dict[str, str]:
    """Package -> version of a requirements file, without the files that it includes."""
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    found = [re.fullmatch(r"([A-Za-z0-9_.-]+)==([0-9][0-9A-Za-z.]*)", line) for line in lines if line]
    included = [line for line in lines if line.startswith("-r ")]
    matches = [match for match in found if match]
    assert len(matches) + len(included) == len([line for line in lines if line]), f"{name} has more than exact versions"
    return {match[1].lower().replace("_", "-"): match[2] for match in matches}


def imported() -> set[str]:
    """Every package that the library and the entry points import, by its name on the index."""
    names = set()
    files = (file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
    for file in (file for file in files if EVALUATE_MODULES not in file.parents):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    third_party = names - set(sys.stdlib_module_names) - set(FOLDERS)
    return {PACKAGES.get(name, name).replace("_", "-") for name in third_party}


def test_every_import_is_pinned_and_every_pin_but_the_launcher_is_imported() -> None:
    assert imported() - set(pins("requirements.txt")) - NOT_INSTALLED == set()
    # `accelerate` may be used only through transformers and the scripts' launcher.
    assert set(pins("requirements.txt")) - imported() <= {"accelerate"}


def test_the_pins_are_among_what_pyproject_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    exact = {**pins("requirements.txt"), **pins("requirements-dev.txt")}
    allowed = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    assert len(allowed) > 15
    wanted_packages = [(line, Requirement(line)) for line in allowed]
    assert NOT_INSTALLED <= {wanted.name for _, wanted in wanted_packages} - set(exact)
    for line, wanted in wanted_packages:
        if wanted.name in NOT_INSTALLED:
            continue
        version = exact[wanted.name.lower().replace("_", "-")]
        assert version in wanted.specifier, f"{line}, but {version} is pinned"
