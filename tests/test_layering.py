"""Imports point one way: from each room of the library strictly down to rooms below it, and never in a circle."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENTRY_FOLDERS = ("NLU", "NLG", "qlora_share", "eval", "benchmarks")
# The rooms of the library from the bottom up, a level each: a room may import rooms that stand before it.
ROOMS = (
    *("support", "plan", "tuner", "sandbox", "data", "metrics", "models", "tiny", "memory", "convert", "reporting"),
    *("trainer", "layer_groups", "flags", "evaluation", "training", "continual", "cli"),
)
# Rooms that know nothing of what stands below them but these, so that they can be used and read alone.
ONLY: Mapping[str, tuple[str, ...]] = {
    "plan": ("support",),
    "sandbox": ("support",),
    "data": ("support",),
    "metrics": ("support", "data"),
    "tuner": ("plan", "support"),
    "tiny": ("data", "support"),
}
# What needs the standard library alone, besides rooms of which the same is true.
STANDARD_LIBRARY_ONLY = (
    *("plan", "support/errors.py", "support/secrets.py", "support/files.py", "support/lock.py", "support/reading.py"),
    *("support/tensor_header.py", "support/text.py", "support/numbers.py", "reporting/results.py"),
    *("reporting/environment.py", "layer_groups/settings.py", "layer_groups/grouping.py", "layer_groups/similarity.py"),
)


def module_name(file: Path) -> str:
    """The dotted name of a file: sharelora/data/mmlu.py is sharelora.data.mmlu."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """The room that a module lies in: `data`, or `face` for the package itself, or the folder of an entry point."""
    first, _, rest = module.partition(".")
    return (rest.partition(".")[0].replace("__main__", "") or "face") if first == "sharelora" else first


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
    here, there = room(module), room(imported)
    if here == there or here == "face" or there == "face":
        return None
    if there in ENTRY_FOLDERS:
        return f"{module} imports {imported} of the entry point {there}"
    if here in ENTRY_FOLDERS:
        return None
    if ROOMS.index(there) > ROOMS.index(here):
        return f"{module} imports {imported}, which stands above it"
    if there not in ONLY.get(here, ROOMS):
        return f"{module} imports {imported}; {here} knows of {', '.join(ONLY[here])} alone"
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


def circles(edges: Iterator[tuple[str, str]]) -> list[str]:
    """Modules that import each other, directly or through others; packages are only what their `__init__` imports."""
    below: dict[str, set[str]] = {}
    for module, imported in edges:
        below.setdefault(module, set()).add(imported)
    # Whatever imports nothing that is left is in no circle; neither is what then imports nothing more.
    left = dict(below)
    while free := [module for module, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    return sorted(left)


def sentence(name: str) -> str:
    """What a room is for, in the words of its `__init__`: the first sentence of it."""
    doc = ast.get_docstring(ast.parse((ROOT / "sharelora" / name / "__init__.py").read_text("utf-8"))) or ""
    return " ".join(doc.partition("\n\n")[0].split()).removesuffix(".")


def picture() -> str:
    """The rooms and their imports as `docs/architecture.md` shows them, from the top down.

    An arrow that a chain of others implies is left out.
    """
    below: dict[str, set[str]] = {name: set() for name in ROOMS}
    for module, imported in edges():
        here, there = room(module), room(imported)
        if here in below and there in below and here != there:
            below[here].add(there)
    reach: dict[str, set[str]] = {}
    for name in ROOMS:
        reach[name] = below[name].union(*(reach[other] for other in below[name]))
    lines = ["```mermaid", "flowchart TD"]
    for name in reversed(ROOMS):
        implied = set().union(*(reach[other] for other in below[name]))
        lines += [f"    {name} --> {other}" for other in reversed(ROOMS) if other in below[name] - implied]
    lines += ["```", "", "| room | |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {sentence(name)} |" for name in reversed(ROOMS))])


def test_the_picture_in_the_documentation_is_that_of_the_code() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    assert picture() in page, "run python tests/test_layering.py and put what it prints into docs/architecture.md"


def test_no_import_points_upward() -> None:
    found = list(edges())
    assert len(found) > 20
    assert [problem for edge in found if (problem := upward(*edge))] == []


def test_no_modules_import_each_other() -> None:
    # `from sharelora.data import mmlu` names the package as well as the module; the module is what is meant.
    found = [(module, name) for module, name in edges() if not (ROOT / name.replace(".", "/")).is_dir()]
    assert circles(iter(found)) == []
    assert circles(iter([*found, ("sharelora.support.errors", "sharelora.plan.plan")])) != []


@pytest.mark.parametrize(
    ("module", "imported", "words"),
    [
        ("sharelora.plan.plan", "sharelora.training.arguments", "stands above"),
        ("sharelora.data.prompts", "sharelora.evaluation", "stands above"),
        ("sharelora.evaluation.exams", "sharelora.training.job", "stands above"),
        ("sharelora.metrics.glue", "sharelora.plan.plan", "knows of support, data alone"),
        ("sharelora.training.job", "sharelora.cli.commands", "stands above"),
        ("eval.mmlu", "qlora_share.qlora_share", "the entry point"),
        ("sharelora.cli.commands", "qlora_share.qlora_share", "the entry point"),
    ],
)
def test_an_import_that_points_upward_would_be_found(module: str, imported: str, words: str) -> None:
    assert words in str(upward(module, imported))


def test_relative_imports_and_imports_inside_functions_are_seen() -> None:
    tree = ast.parse("def f():\n    from ..training import arguments\n    import sharelora.tiny")
    names = list(imports(tree, "sharelora.data.fake"))
    assert names == ["sharelora.training", "sharelora.training.arguments", "sharelora.tiny"]


def test_every_room_has_a_level_and_says_what_it_is_for() -> None:
    folders = [path.name for path in (ROOT / "sharelora").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert sorted(folders) == sorted(ROOMS)
    assert {path.name for path in (ROOT / "sharelora").glob("*.py")} <= {"__init__.py", "__main__.py"}
    for name in ROOMS:
        doc = ast.get_docstring(ast.parse((ROOT / "sharelora" / name / "__init__.py").read_text("utf-8"))) or ""
        assert "May import: " in doc and "Begin with " in doc, name


def test_no_file_is_a_drawer() -> None:
    assert [file.name for file in sources() if file.stem in ("utils", "util", "helpers", "misc", "common")] == []


@pytest.mark.parametrize("name", STANDARD_LIBRARY_ONLY)
def test_the_plan_and_the_files_need_the_standard_library_alone(name: str) -> None:
    path = ROOT / "sharelora" / name
    for file in [path] if path.is_file() else path.rglob("*.py"):
        found = {imported.split(".")[0] for imported in imports(ast.parse(file.read_text("utf-8")), module_name(file))}
        assert found <= {"sharelora", *sys.stdlib_module_names}


def test_loralib_is_an_oracle_and_no_dependency() -> None:
    users = [
        module_name(file)
        for file in sources()
        if any(name.split(".")[0] == "loralib" for name in imports(ast.parse(file.read_text("utf-8")), ""))
    ]
    assert all(user.startswith(("benchmarks.", "sharelora.convert")) for user in users), users


if __name__ == "__main__":
    print(picture())
