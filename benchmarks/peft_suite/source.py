"""PEFT's tests as they are published: in the source package, not in the installed one."""

from __future__ import annotations

import importlib.metadata
import tarfile
from pathlib import Path

from benchmarks.harness.packages import download, unpack
from sharelora.support.errors import UserError

# What the tests import and the project does not need; without their own requirements, which are here or never used.
EXTRA = ("diffusers==0.42.1", "parameterized==0.9.0")
# Marks that the tests carry; the file of settings that declares them is not in the source package.
SETTINGS = """[pytest]
markers =
    single_gpu_tests
    multi_gpu_tests
    regression
    bitsandbytes
"""


def peft_version() -> str:
    """Return the version of the installed PEFT, whose tests are run."""
    return importlib.metadata.version("peft")


def prepare_tests(folder: Path) -> Path:
    """Unpack PEFT's tests, once.

    Args:
        folder: where they and what they need are kept.

    Returns:
        The folder that holds `tests/`.

    Raises:
        UserError: the package index has no source package of this version with tests, or is out of reach.
    """
    root = folder / f"peft-{peft_version()}"
    ready = root / "pytest.ini"
    if ready.is_file():
        return root
    download([f"peft=={peft_version()}"], folder, "--no-binary", ":all:")
    with tarfile.open(folder / f"peft-{peft_version()}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    if not (root / "tests" / "testing_common.py").is_file():
        raise UserError(f"the source package of peft {peft_version()} has no tests; need one that has; pin another one")
    # The tests import each other as a package.
    (root / "tests" / "__init__.py").touch()
    ready.write_text(SETTINGS, encoding="utf-8")
    return root


def prepare_packages(folder: Path) -> Path:
    """Install what the tests need besides into a folder of its own, once, and return it.

    Raises:
        UserError: the package index is out of reach.
    """
    packages = folder / "packages"
    if not packages.is_dir():
        unpack(list(EXTRA), packages)
    return packages
