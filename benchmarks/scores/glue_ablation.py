"""Do the As of LoRA's layers resemble each other only because they start alike? A controlled start, and A frozen.

    python benchmarks/scores/glue_ablation.py --plan        how many runs, and how long they will take
    python benchmarks/scores/glue_ablation.py --jobs 2      all of it, then docs/results/glue_ablation.md
    python benchmarks/scores/glue_ablation.py --quick       a minute, on a small model that the project makes

Six ways to train: LoRA with a different start for the A of every layer, with the same start for all layers, with A
frozen at either start, ShareA, and ShareB. Scores, and how alike the As of different layers are before and after. Runs
that `glue_results.py` has done with the same budgets are not repeated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.harness.command import document_path, new_parser, output_folder
from benchmarks.harness.experiment import Outcomes
from benchmarks.harness.report import mean_and_deviation, table
from benchmarks.scores.glue import ABLATED, METHODS, GlueExperiment, Outcome
from benchmarks.scores.glue_results import add_flags, experiment_from, run_experiment
from benchmarks.scores.glue_tables import difference_table, introduction, method_lines, score_table
from sharelora.reporting.document import write_document
from sharelora.support.errors import run_main

PAIRS = (
    ("lora_same", "lora"),
    ("lora_frozen", "lora"),
    ("lora_same_frozen", "lora"),
    ("share_a", "lora_same"),
    ("share_a", "lora_same_frozen"),
    ("share_b", "lora"),
)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    add_flags(parser, "glue_ablation.md")
    return parser.parse_args(argv)


def similarity_table(experiment: GlueExperiment, outcomes: Outcomes[Outcome], root: Path) -> str:
    """Return a row per method: how alike the As of different layers are, mean over tasks and seeds."""
    from benchmarks.scores.glue_start import Similarity, similarity

    rows = []
    for method in experiment.methods:
        runs = [run for task in experiment.tasks for run in outcomes.get((task, method), {})]
        measured = [similarity(root / run.name) for run in runs]
        texts = []
        for name in Similarity.__dataclass_fields__:
            values = [getattr(one, name) for one in measured]
            # The change of an A that was not trained has no direction: NaN.
            known = all(value == value for value in values)
            texts.append(mean_and_deviation(values, 1 if name == "angle" else 3) if known else "-")
        rows.append((METHODS[method].title, *texts))
    headers = ("", "cosine at the start", "cosine at the end", "cosine of the change", "angle (degrees)", "moved")
    return table(headers, rows)


def compose(experiment: GlueExperiment, outcomes: Outcomes[Outcome], root: Path) -> str:
    """Return the document without notes.

    Args:
        experiment: what was compared.
        outcomes: what the compared runs came to.
        root: the folder of the runs.
    """
    from benchmarks.scores.glue_start import chance_angle
    from sharelora.convert.adapter_file import read_adapter

    some_run = next(run for runs in outcomes.values() for run in runs)
    entry = read_adapter(root / some_run.name).plan.entries[0]
    chance = chance_angle(entry.r, entry.site.d_in)
    return "\n\n".join(
        (
            introduction(experiment, "Does a common start make the As of LoRA alike?"),
            method_lines(experiment.methods),
            "The learning rates are those of the search of `glue_results.py`; all kinds of LoRA have LoRA's.",
            "## Scores\n\nOn the dev set after the last update, in hundredths: mean ± standard deviation over seeds.",
            score_table(experiment, outcomes, experiment.methods),
            "Differences of the mean over tasks, formed within a seed, with the standard error:",
            difference_table(experiment, outcomes, PAIRS),
            "## How alike the As are\n\nOver all pairs of layers, query and value separately; mean ± standard "
            "deviation over tasks and seeds. The cosine takes a matrix as one long vector; `change` is what training "
            "added to A; the angle is the mean principal angle between row spaces (0: equal, random ones: "
            f"{chance:.1f}); `moved` is the norm of the change over that of the start.",
            similarity_table(experiment, outcomes, root),
        )
    )


def main() -> None:
    """Run what is missing and write the document."""
    args = arguments()
    experiment = experiment_from(args, ABLATED)
    outcomes = run_experiment(experiment, args)
    if outcomes is None:
        return
    document = document_path(args)
    write_document(document, compose(experiment, outcomes[1], output_folder(args)))
    print(f"wrote {document}")


if __name__ == "__main__":
    run_main(main)
