"""What a benchmark leaves behind: tables for people, JSON for programs, both with the machine and the command."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sharelora.reporting.environment import git_commit, machine_facts, versions
from sharelora.support.files import require_writable, write_json, write_text
from sharelora.support.text import size

RESULTS = Path(__file__).resolve().parent / "results"


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table whose columns line up in plain text too."""
    cells = [[str(value) for value in row] for row in (headers, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    lines = ["| " + " | ".join(f"{v:<{w}}" for v, w in zip(row, widths, strict=True)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def milliseconds(spread: dict[str, float] | None) -> str:
    """Return a spread of seconds as `median (low-high)` in milliseconds."""
    if spread is None:
        return "-"
    median, low, high = (1000 * spread[key] for key in ("median", "low", "high"))
    digits = 2 if median < 10 else 1 if median < 100 else 0
    return f"{median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def times(spread: dict[str, float] | None) -> str:
    """Return a ratio, e.g. `1.12x`."""
    return "-" if spread is None else f"{spread['median']:.2f}x"


def memory(count: float | None) -> str:
    """Return bytes for a table, `-` where they were not measured."""
    return "-" if count is None else size(count)


def _matrix_instructions() -> list[str]:
    """Return what the CPU has for 16-bit products: without AMX they are no faster than those in fp32."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text(encoding="utf-8").split()) if info.is_file() else set()
    return sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"})


def facts(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what every result says about itself."""
    return {
        "schema": 1,
        "kind": kind,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "git": git_commit(),
        "machine": {**machine_facts(), "instructions": _matrix_instructions()},
        "versions": versions(),
        "settings": settings,
    }


def heading(result: dict[str, Any]) -> str:
    """Return the first lines of a Markdown report: what, when, where, with what."""
    machine, packages = result["machine"], result["versions"]
    where = ", ".join(
        [*machine["gpu"], f"{machine['cpu']}, {machine['cores']} cores", *machine["instructions"], size(machine["ram"])]
    )
    used = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    return (
        f"# {result['kind']}, {result['date'][:16].replace('T', ' ')}\n\n"
        f"- command: `{result['command']}`\n- machine: {where}\n- versions: {used}\n- commit: {result['git'] or '-'}"
    )


def save(folders: Iterable[Path], result: dict[str, Any], markdown: str) -> list[Path]:
    """Write a result as dated JSON and Markdown into folders.

    Returns:
        The JSON files; the Markdown files have the same names with another ending.

    Raises:
        UserError: a folder that cannot be written.
    """
    moment = datetime.fromisoformat(result["date"])
    stem = f"{result['kind']}-{moment:%Y%m%d-%H%M%S}"
    made = []
    for folder in folders:
        require_writable(folder)
        write_json(folder / f"{stem}.json", result)
        write_text(folder / f"{stem}.md", markdown)
        made.append(folder / f"{stem}.json")
    return made
