"""What the project imports is what it says it needs, locked: exact versions that pyproject.toml allows, and hashes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("sharelora", "qlora_share", "eval", "NLU", "NLG")
PACKAGES = {"yaml": "pyyaml", "sklearn": "scikit-learn", "PIL": "pillow"}
# Run only by `evaluate` itself, so only where it is installed.
EVALUATE_MODULES = ROOT / "sharelora" / "metrics" / "modules"

# Large, and used by one benchmark, engine or flag alone: whoever wants that installs it.
NOT_INSTALLED = {"ctranslate2", "deepspeed", "lm-eval", "torchvision", "vllm"}


def pins(name: str) -> dict[str, str]:
    """Package -> version of a locked requirements file, which has nothing but versions, markers and hashes."""
    first, *lines = (ROOT / name).read_text().splitlines()
    assert first.startswith("# Written by scripts/lock.sh")
    # A line that goes on ends with a backslash.
    entries = re.sub(r" *\\\n *", " ", "\n".join(lines)).splitlines()
    found = [
        re.fullmatch(r"([a-z0-9.-]+)==([0-9][0-9a-z.]*)( ; [^#]+?)?((?: --hash=sha256:[0-9a-f]{64})+)", e)
        for e in entries
    ]
    assert None not in found, [entry for entry, match in zip(entries, found, strict=True) if match is None][:3]
    versions = {match[1]: match[2] for match in found if match}
    assert len(versions) == len(entries), "a package is there twice"
    return versions


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
    return {PACKAGES.get(name, name).lower().replace("_", "-") for name in third_party}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_import_is_locked_and_every_dependency_but_the_launcher_is_imported() -> None:
    assert imported() - set(pins("requirements.txt")) - NOT_INSTALLED == set()
    # `accelerate` may be used only through transformers and the scripts' launcher.
    named = {Requirement(line).name.lower() for line in project()["project"]["dependencies"]}
    assert named - imported() <= {"accelerate"}


def test_all_that_the_locked_packages_need_is_locked_too() -> None:
    locked = pins("requirements-dev.txt")
    for name in locked:
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # of other systems, or CUDA's
            continue
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                assert canonicalize_name(need.name) in locked, f"{name} needs {need}"
    assert {Requirement(line).name for line in project()["build-system"]["requires"]} <= set(pins("requirements.txt"))


def test_what_developers_have_is_what_everybody_has_and_more() -> None:
    everybody, developers = pins("requirements.txt"), pins("requirements-dev.txt")
    assert everybody.items() < developers.items()


def test_the_licence_of_every_package_is_listed() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "licences.py", "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "") and "not known yet" not in (ROOT / "docs/licences.md").read_text()


def test_the_pins_are_among_what_pyproject_allows() -> None:
    named, exact = project()["project"], pins("requirements-dev.txt")
    allowed = [*named["dependencies"], *(line for extra in named["optional-dependencies"].values() for line in extra)]
    assert len(allowed) > 15
    wanted_packages = [(line, Requirement(line)) for line in allowed]
    assert NOT_INSTALLED <= {wanted.name for _, wanted in wanted_packages} - set(exact)
    for line, wanted in wanted_packages:
        if wanted.name in NOT_INSTALLED:
            continue
        version = exact[wanted.name.lower().replace("_", "-")]
        assert version in wanted.specifier, f"{line}, but {version} is pinned"


@pytest.mark.parametrize(("build", "cuda"), [("2.13.0+cpu", False), ("2.13.0", True)])
def test_a_build_of_torch_for_cpus_alone_comes_without_cuda(tmp_path: Path, build: str, cuda: bool) -> None:
    (tmp_path / "torch.txt").write_text(f"torch=={build}\n")
    script = f"source {ROOT}/scripts/common/venv.sh; without_cuda {tmp_path}/torch.txt {ROOT}/requirements.txt"
    kept = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True).stdout
    names = set(re.findall(r"^([a-z0-9.-]+)==", kept, re.MULTILINE))
    left_out = set(pins("requirements.txt")) - names
    libraries = {name for name in pins("requirements.txt") if name.startswith(("cuda", "nvidia")) or name == "triton"}
    assert left_out == (set() if cuda else libraries) and len(libraries) > 15 and "torch" in names
    # What is kept is kept with its hashes, and no hash of another is.
    hashes = re.findall(r"--hash=sha256:\w{64}", (ROOT / "requirements.txt").read_text())
    assert kept.count("--hash=") <= len(hashes) and (kept.count("--hash=") == len(hashes)) == cuda
