"""The licences of all packages that pyproject.toml leads to, as their own metadata state them: docs/licences.md.

    python scripts/licences.py           # write it from what is installed
    python scripts/licences.py --check   # write nothing; name packages whose licence is missing or differs

A package that is not installed here (CUDA's libraries, those of other systems, large extras) keeps its line.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "licences.md"
HEAD = """\
# Licences

The project is under the Apache License 2.0 ([LICENSE](../LICENSE)). What it installs has these licences, as the
packages' own metadata state them. `python scripts/licences.py` writes this page from what is installed, and a test
compares. `LicenseRef-NVIDIA-Proprietary` is of CUDA's libraries, which come with the builds of torch for NVIDIA's GPUs.

"""
# What classifiers say where metadata have no other word.
_SHORT = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_LONGEST = 60  # characters; more are the text of a licence, not its name


def locked(file: str) -> list[str]:
    """Names of the packages of a requirements file, in order."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return [match[1] for line in lines if (match := re.match(r"([a-z0-9_.-]+)==", line))]


def licence(name: str) -> str | None:
    """The licence of an installed package; None if it is not installed."""
    try:
        facts = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    classifiers = [
        line.rpartition(" :: ")[2] for line in facts.get_all("Classifier") or () if line.startswith("License")
    ]
    if facts["License-Expression"]:
        return str(facts["License-Expression"])
    stated = (facts["License"] or "").strip()
    if not stated or len(stated) > _LONGEST or "\n" in stated or stated == "UNKNOWN":
        stated = ", ".join(_SHORT.get(word, word) for word in classifiers if word != "OSI Approved")
    return stated or "see the package"


def listed() -> dict[str, str]:
    """Package -> licence, of the page as it is."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    return dict(re.findall(r"^\| ([a-z0-9_.-]+) \| ([^|]+) \|", text.partition("|---")[2], re.MULTILINE))


def found() -> dict[str, str]:
    """Package -> licence, of all that are locked: of what is installed, else of the page."""
    before, packages = listed(), sorted({*locked("requirements-dev.txt"), *extras()})
    return {name: licence(name) or before.get(name, "not known yet") for name in packages}


def extras() -> set[str]:
    """Names of the packages of all extras."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return {re.split(r"[^A-Za-z0-9_.-]", line)[0].lower() for lines in groups.values() for line in lines}


def page(licences: dict[str, str]) -> str:
    """The page as Markdown."""
    runs, develops = set(locked("requirements.txt")), set(locked("requirements-dev.txt"))
    uses = {**dict.fromkeys(develops, "developing"), **dict.fromkeys(runs, "running")}
    rows = [f"| {name} | {text} | {uses.get(name, 'an extra')} |" for name, text in licences.items()]
    return HEAD + "\n".join(["| package | licence | for |", "|---|---|---|", *rows]) + "\n"


def main() -> int:
    """Write or check the page; the number of packages that differ is what is said."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    now = found()
    if not parser.parse_args().check:
        PAGE.write_text(page(now), encoding="utf-8")
        return 0
    before = listed()
    differing = sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))
    print("\n".join(f"{name}: {before.get(name)}, installed {now.get(name)}" for name in differing), end="")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
