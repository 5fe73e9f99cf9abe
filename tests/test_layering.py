"""Imports point one way: entry points -> training, evaluation, tiny -> data, metrics -> core."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENTRY_FOLDERS = ("NLU", "NLG", "qlora_share", "eval", "benchmarks")
ENTRY, JOBS, TASKS, CORE = 3, 2, 1, 0
LEVELS = {
    "sharelora.cli": ENTRY,
    "sharelora.evaluation": JOBS,
    "sharelora.training": JOBS,
    "sharelora.tiny": JOBS,
    "sharelora.data": TASKS,
    "sharelora.metrics": TASKS,
    "sharelora": CORE,
}
# All that data and metrics may know of the core: nothing about adapters, models or plans.
FREE_OF_ADAPTERS = ("sharelora.errors", "sharelora.files", "sharelora.hub", "sharelora.environment")
STANDARD_LIBRARY_ONLY = (
    "plan", "plan_table", "rules", "handwritten", "results", "errors", "files", "environment", "budget",
    "grouping/choice", "grouping/greedy", "grouping/groups", "grouping/optimal", "grouping/ranks", "similarity/result",
)  # fmt: skip


def module_name(file: Path) -> str:
    """The dotted name of a file: sharelora/data/mmlu.py is sharelora.data.mmlu."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def level(module: str) -> int:
    """How high a module stands; a module may import what stands no higher."""
    if module.split(".")[0] in ENTRY_FOLDERS:
        return ENTRY
    prefixes = [prefix for prefix in LEVELS if module == prefix or module.startswith(prefix + ".")]
    return LEVELS[max(prefixes, key=len)]


def entry(module: str) -> str | None:
    """The entry point that a module belongs to: the command line, or a folder of scripts; None in the library."""
    if module.startswith("sharelora"):
        return "sharelora.cli" if level(module) == ENTRY else None
    return module.split(".")[0]


def imports(tree: ast.AST, module: str) -> Iterator[str]:
    """Every module that a file imports, at its top or inside a function; `from a import b` gives a and a.b."""
    package = module if (ROOT / module.replace(".", "/")).is_dir() else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def ours(name: str) -> bool:
    """Whether a name is a module of this project rather than of a package, or something inside a module."""
    if name.split(".")[0] not in ("sharelora", *ENTRY_FOLDERS):
        return False
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def upward(module: str, imported: str) -> str | None:
    """What is wrong with an import, or None."""
    if level(imported) == ENTRY and entry(imported) != entry(module):
        return f"{module} imports the entry point {imported}"
    if level(imported) > level(module):
        return f"{module} imports {imported}, which stands above it"
    knows_adapters = level(imported) == CORE and imported not in ("sharelora", *FREE_OF_ADAPTERS)
    if level(module) == TASKS and knows_adapters:
        return f"{module} imports {imported}; data and metrics know nothing of adapters"
    return None


def sources() -> list[Path]:
    """Every Python file of the library and the entry points."""
    folders = ["sharelora", *(name for name in ENTRY_FOLDERS if (ROOT / name).is_dir())]
    return [file for name in folders for file in sorted((ROOT / name).rglob("*.py"))]


def edges() -> Iterator[tuple[str, str]]:
    """Every import of one of our modules by another."""
    for file in sources():
        module = module_name(file)
        for name in imports(ast.parse(file.read_text(encoding="utf-8")), module):
            if ours(name) and name != module:
                yield module, name


def test_no_import_points_upward() -> None:
    found = list(edges())
    assert len(found) > 20
    assert [problem for edge in found if (problem := upward(*edge))] == []


@pytest.mark.parametrize(
    ("module", "imported", "words"),
    [
        ("sharelora.plan", "sharelora.training.arguments", "stands above"),
        ("sharelora.data.prompts", "sharelora.evaluation", "stands above"),
        ("sharelora.metrics.glue", "sharelora.plan", "know nothing of adapters"),
        ("sharelora.training.job", "sharelora.cli", "the entry point"),
        ("eval.mmlu", "qlora_share.qlora_share", "the entry point"),
        ("sharelora.cli", "qlora_share.qlora_share", "the entry point"),
    ],
)
def test_an_import_that_points_upward_would_be_found(module: str, imported: str, words: str) -> None:
    assert words in str(upward(module, imported))


def test_relative_imports_and_imports_inside_functions_are_seen() -> None:
    tree = ast.parse("def f():\n    from ..training import arguments\n    import sharelora.tiny")
    names = list(imports(tree, "sharelora.data.fake"))
    assert names == ["sharelora.training", "sharelora.training.arguments", "sharelora.tiny"]


def test_no_file_is_a_drawer() -> None:
    assert [file.name for file in sources() if file.stem in ("utils", "util", "helpers", "misc", "common")] == []


@pytest.mark.parametrize("name", STANDARD_LIBRARY_ONLY)
def test_the_plan_and_the_files_need_the_standard_library_alone(name: str) -> None:
    tree = ast.parse((ROOT / "sharelora" / f"{name}.py").read_text(encoding="utf-8"))
    found = {imported.split(".")[0] for imported in imports(tree, f"sharelora.{name}")}
    assert found <= {"sharelora", *sys.stdlib_module_names}


def test_loralib_is_an_oracle_and_no_dependency() -> None:
    users = [
        module_name(file)
        for file in sources()
        if any(name.split(".")[0] == "loralib" for name in imports(ast.parse(file.read_text("utf-8")), ""))
    ]
    assert all(user.startswith(("benchmarks.", "sharelora.checkpoint")) for user in users), users
