"""Generated documents: their opening (date, command, machine, versions, commit) and notes that people add by hand."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from sharelora.reporting.environment import command_line, git_commit, machine_facts, matrix_instructions, versions
from sharelora.support.files import write_text
from sharelora.support.text import size

# Only the beginning is searched for: the rest was worded differently in earlier documents.
_NOTES_BEGIN = "<!-- What follows is written by hand"
NOTES = f"{_NOTES_BEGIN} and kept when this file is generated again. -->"


def provenance(title: str) -> dict[str, Any]:
    """Return how the numbers of a document came about, as JSON data: date, command, commit, machine, versions.

    Args:
        title: what was done.
    """
    return {
        "kind": title,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command_line(),
        "git": git_commit(),
        "machine": {**machine_facts(), "instructions": matrix_instructions()},
        "versions": versions(),
    }


def opening(facts: Mapping[str, Any]) -> str:
    """Return the first lines of a Markdown document.

    Args:
        facts: as `provenance` returns, now or from an earlier result.
    """
    machine = facts["machine"]
    hardware = ", ".join(
        [*machine["gpu"], f"{machine['cpu']}, {machine['cores']} cores", *machine["instructions"], size(machine["ram"])]
    )
    packages = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    return (
        f"# {facts['kind']}, {facts['date'][:16].replace('T', ' ')}\n\n"
        f"- command: `{facts['command']}`\n- machine: {hardware}\n- versions: {packages}\n"
        f"- commit: {facts['git'] or '-'}"
    )


def write_document(path: Path, text: str) -> None:
    """Write a document and keep the notes that people added to an earlier one, below the line `NOTES`.

    Args:
        path: the Markdown file.
        text: all but the notes.

    Raises:
        UserError: the folder cannot be written.
    """
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    notes = before.partition(_NOTES_BEGIN)[2].partition("-->")[2].strip()
    write_text(path, f"{text}\n\n{NOTES}\n" + (f"\n{notes}\n" if notes else ""))
