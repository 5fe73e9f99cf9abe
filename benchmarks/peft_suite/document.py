"""The table of the runs, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.harness.report import table
from benchmarks.peft_suite.verdict import KINDS, share_of_passed
from sharelora.reporting.document import opening

FAILURES = 40  # named in the document; all of them are in the JSON file
INTRODUCTION = """\
PEFT's tests in which LoRA's configuration appears, taken from its source package, with `ShareLoraConfig(share=...)` in
the place of `LoraConfig`. Models from the hub are replaced by small random ones. A test counts as comparable if it
passes with LoRA on the same machine. A refusal is an error that says why: *by name* a variant of LoRA that is not
supported, *by nature* something that cannot share. Everything else that passes with LoRA and not here has failed."""


def compose(result: Mapping[str, Any]) -> str:
    """Return the document of a result, as `command` writes it."""
    runs: Mapping[str, Any] = result["runs"]
    header = ("share", "comparable", *KINDS, "% passed", "% of what can be shared")
    rows = [
        (
            name,
            f"{run['comparable']:,}",
            *(f"{run[kind]:,}" for kind in KINDS),
            *(f"{percent:.1f}" for percent in share_of_passed(run)),
        )
        for name, run in runs.items()
    ]
    parts = [opening(result), INTRODUCTION, table(header, rows)]
    for name, run in runs.items():
        parts += [f"## share={name!r}", _modules(run)]
        if run["reasons"]:
            reasons = [(r["kind"], r["label"], r["tests"]) for r in run["reasons"]]
            parts += ["### Refused", table(("", "what", "tests"), reasons)]
        if run["failures"]:
            parts += ["### Failed", _failures(run["failures"])]
    return "\n\n".join(parts)


def _modules(run: Mapping[str, Any]) -> str:
    rows = [(name, *(f"{counts[kind]:,}" for kind in KINDS)) for name, counts in run["modules"].items()]
    return table(("tests", *KINDS), rows)


def _failures(failures: Mapping[str, str]) -> str:
    lines = [f"- `{test.rpartition('/')[2]}`: {_plain(label)}" for test, label in list(failures.items())[:FAILURES]]
    if len(failures) > FAILURES:
        lines.append(f"- and {len(failures) - FAILURES} more, in the JSON file")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Return an error without what Markdown would take for marks of its own."""
    return text.replace("|", "/").replace("<", "(").replace(">", ")")
