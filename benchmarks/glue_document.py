"""The GLUE comparison as a document: how it was made, what came out, and notes that people add by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.glue_experiment import COMMON, METHODS, SEARCH, Experiment, Run
from benchmarks.glue_table import Cell, Outcome, best_rates, difference_table, edge_note, score_table, search_table
from sharelora.support.files import write_text

NOTES = "<!-- What follows is written by hand and kept when this file is made anew. -->"
Found = Mapping[Cell, Mapping[Run, Outcome]]


def method_lines(names: Sequence[str]) -> str:
    """Return a line per method: its flags."""
    rows = {name: METHODS[name] for name in names}
    return "\n".join(
        f"- {row.title}: `{' '.join(f'--{flag} {value}' for flag, value in row.sharing.items())} --lora_r {row.r} "
        f"--lora_alpha {2 * row.r}`"
        + ("; A of all layers starts with the same numbers" if row.same_start else "")
        + ("; A is not trained" if row.frozen else "")
        for row in rows.values()
    )


def budget_table(experiment: Experiment) -> str:
    """Return a row per task: what a run reads and how long it trains."""
    rows = [
        (
            task.title,
            f"first {task.rows:,}" if task.rows else "all",
            task.updates,
            task.length,
            task.held_out,
            experiment.updates(Run(SEARCH, "lora", name, 0, 0.0)),
        )
        for name, task in experiment.tasks.items()
    ]
    headers = ("task", "training rows", "updates", "longest row", "search: rows held out", "search: updates")
    return report.table(headers, rows)


def opening(experiment: Experiment, title: str) -> str:
    """Return the heading, the command, the machine and the budgets."""
    facts = report.facts(title, {})
    common = " ".join(f"--{name} {value}" for name, value in COMMON.items())
    dropout = "" if experiment.dropout is None else f", and dropout {experiment.dropout:g} everywhere in the encoder"
    return "\n\n".join(
        (
            report.heading(facts),
            f"Encoder: `{_model_name(experiment)}`; adapters on query and value, and a new head, are trained. All runs "
            f"have `{common}`{dropout}.",
            budget_table(experiment),
        )
    )


def _model_name(experiment: Experiment) -> str:
    if experiment.model is None:
        return "the small RoBERTa that the project makes"
    # Of a folder inside a package, the package says what it is.
    return "/".join(Path(experiment.model).parts[-2:])


def compose(
    experiment: Experiment, searched: Found, found: Found, names: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> str:
    """Return the document without notes."""
    rates = ", ".join(f"{rate:g}" for rate in experiment.rates)
    return "\n\n".join(
        (
            opening(experiment, "LoRA and its shared forms on GLUE"),
            method_lines(names),
            "## Results\n\nOn the dev set after the last update, in hundredths: mean ± standard deviation over seeds. "
            "`trained` counts the adapter without the head; `file` holds both; seconds are those of training, averaged "
            "over the tasks.",
            score_table(experiment, found, names),
            "![Scores with standard deviations](glue.svg)",
            "Differences of the mean over tasks, formed within a seed, with the standard error:",
            difference_table(experiment, found, pairs),
            f"## Search\n\nEvery method was trained with every learning rate ({rates}), once per task, on a part of "
            "the training rows, for as many updates as stand above. The lowest loss, or the highest score, on the rest "
            "of them decided (bold); dev played no part. Each cell has both, the score in hundredths. "
            f"{edge_note(experiment, best_rates(experiment, searched))}",
            search_table(experiment, searched),
        )
    )


def write_document(path: Path, text: str) -> None:
    """Write a document, with the notes that an earlier one has."""
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    notes = before.partition(NOTES)[2].strip()
    write_text(path, f"{text}\n\n{NOTES}\n" + (f"\n{notes}\n" if notes else ""))
