"""The documentation says what is there: links resolve, code runs and prints what it says, names and figures agree."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from peft import LoraConfig

from sharelora import ShareLoraConfig
from sharelora.tuner.config import UNSUPPORTED, UNSUPPORTED_INIT

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WRITTEN = [page for page in PAGES if page.parent.name != "results" and page.name != "LOG.md"]
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchor(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def block(page: Path, language: str) -> str:
    """The first block of code of a language."""
    match = re.search(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert match is not None
    return match[1]


def test_the_readme_fits_on_a_screen_or_two() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 1500


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = _FENCED.sub("", page.read_text("utf-8"))
    for link in _LINK.findall(text):
        if link.startswith(("http://", "https://")):
            continue
        name, _, part = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if part:
            assert part in {anchor(heading) for heading in _HEADING.findall(target.read_text("utf-8"))}, link


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        links = [link.partition("#")[0] for link in _LINK.findall(page.read_text("utf-8"))]
        waiting += [(page.parent / link).resolve() for link in links if link.endswith(".md") and "://" not in link]
    assert [str(page) for page in PAGES if page not in reached] == []


def test_the_ten_lines_print_what_the_readme_says(tmp_path: Path) -> None:
    program = block(ROOT / "README.md", "python")
    # The plan is the same however long the small model was trained.
    environment = {**os.environ, "SHARELORA_TINY_STEPS": "2", "SHARELORA_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == block(ROOT / "README.md", "text")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def test_the_readmes_result_is_that_of_its_page() -> None:
    readme, page = (ROOT / "README.md").read_text("utf-8"), (ROOT / "docs/results/glue.md").read_text("utf-8")
    rows = [line for line in readme.splitlines() if re.match(r"\| (LoRA|ShareA)", line)]
    assert len(rows) == 3
    for row in rows:
        name, *cells = [cell.strip() for cell in row.strip("|").split("|")]
        there = next(line for line in page.splitlines() if line.startswith(f"| {name} ") and "±" in line)
        assert all(cell in there for cell in cells), row


def test_every_field_of_the_configuration_is_explained() -> None:
    page = (ROOT / "docs/python-api.md").read_text("utf-8")
    own = {field.name for field in dataclasses.fields(ShareLoraConfig)} - {
        field.name for field in dataclasses.fields(LoraConfig)
    }
    assert [name for name in (*own, *UNSUPPORTED, *UNSUPPORTED_INIT) if f"`{name}`" not in page] == []


def test_every_extra_is_explained() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    page = (ROOT / "docs/install.md").read_text("utf-8")
    assert [name for name in extras if f"| `{name}` |" not in page] == []


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(
        r"(?<![\w/.])((?:scripts|benchmarks|docs|tests|sharelora|eval|NLU|NLG|qlora_share)/[\w./-]+\.(?:py|sh|yaml|md|sbatch))\b",
        page.read_text("utf-8"),
    )
    # A page of docs may name another by its path from the folder above.
    assert [name for name in named if not (ROOT / name).exists()] == []


# Flags that the documentation names and other tools have.
OTHER_TOOLS = {
    *("--config_file", "--num_processes", "--num_machines", "--machine_rank", "--main_process_ip"),  # accelerate
    *("--main_process_port", "--mixed_precision", "--cpu"),
    *("--nnodes", "--nproc_per_node", "--rdzv_backend", "--rdzv_endpoint", "--rdzv_id"),  # torchrun
    *("--enable-lora", "--lora-modules", "--max-lora-rank"),  # vllm
    *("--no-build-isolation", "--no-deps", "--require-hashes", "--upgrade"),  # pip and uv
    *("--scope", "--user"),  # systemd-run
    "--signal",  # Slurm
    *("--help", "--version"),  # every command; without them in its list of flags
}
_FLAG = re.compile(r"(?<![\w-])--[A-Za-z][\w-]*")
_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def subcommands() -> list[str]:
    """The commands that `sharelora --help` lists."""
    return re.findall(r"^  (\w+)  ", help_of("-m", "sharelora"), re.MULTILINE)


@pytest.fixture(scope="module")
def flags(subcommands: list[str]) -> set[str]:
    """Every flag of every command of this project, read from its `--help`."""
    files = sorted(path for folder in ("qlora_share", "NLU", "NLG", "eval") for path in (ROOT / folder).glob("*.py"))
    assert len(subcommands) > 10 and len(files) > 12
    kinds = re.search(r"\{([\w,]+)\}", help_of("-m", "sharelora", "figures"))
    assert kinds is not None
    commands = [["-m", "sharelora", name] for name in subcommands] + [[str(file)] for file in files]
    commands += [["-m", "sharelora", "figures", kind] for kind in kinds[1].split(",")]
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda words: help_of(*words), commands))
    return set(_FLAG.findall("\n".join(texts)))


def help_of(*words: str) -> str:
    """What a command prints for `--help`."""
    done = subprocess.run(
        [sys.executable, *words, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def code(page: Path) -> str:
    """What a page shows as code, in lines of text and in blocks; and the tables that other tests compare with code."""
    return "\n".join(_CODE.findall(page.read_text("utf-8")))


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_flags_that_are_named_exist(page: Path, flags: set[str]) -> None:
    assert sorted(set(_FLAG.findall(code(page))) - flags - OTHER_TOOLS) == []


def test_commands_that_are_named_exist(subcommands: list[str]) -> None:
    for page in WRITTEN:
        named = set(re.findall(r"(?:^|[\s`/(])sharelora ([a-z]\w*)", code(page), re.MULTILINE))
        assert named - set(subcommands) == set(), page


# ... and what stands for a value in a message: words in capitals, numbers, names of files and flags that were given.
_VALUE = re.compile(r"\.\.\.|(?<![\w-])[A-Z]+(?![\w-])|(?<![\w-])\d[\d.]*(?![\w-])")


def literals() -> str:
    """Every text of the library's source, a line each; an f-string is cut at its values."""
    texts = []
    for file in sorted((ROOT / "sharelora").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values]
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"%[ds]", "\0", node.value))
    return "\n".join(texts)


@pytest.mark.parametrize("name", ["troubleshooting.md", "operations.md"])
def test_messages_that_are_quoted_are_those_of_the_library(name: str) -> None:
    text, source = (ROOT / "docs" / name).read_text("utf-8"), literals()
    table = re.search(r"^\| (?:the message|it) says \|.*?(?=^$)", text, re.MULTILINE | re.DOTALL)
    assert table is not None
    quoted = [re.match(r"\| `([^`]+)` \|", row) for row in table[0].splitlines()[2:]]
    assert len(quoted) > 8 and all(quoted)
    for match in quoted:
        assert match is not None
        parts = [part.strip() for part in _VALUE.split(match[1])]
        assert [part for part in parts if part and part not in source] == [], match[1]
        assert max(map(len, parts)) > 7, f"{match[1]} could be any message"


@pytest.mark.parametrize("name", ["architecture.md", "new-task.md"])
def test_files_of_the_library_that_are_named_exist(name: str) -> None:
    named = re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", (ROOT / "docs" / name).read_text("utf-8"))
    homes = (ROOT, ROOT / "sharelora", ROOT / "docs")
    assert [path for path in named if not any((home / path).is_file() for home in homes)] == []
