"""Groups of similar layers against LoRA, pairs, ShareA and dropped layers, on a pre-trained LLaMA.

    python benchmarks/scores/groups_results.py --model DIR --jobs 2    all of it, then docs/results/groups.md
    python benchmarks/scores/groups_results.py --quick                 a minute, on what the project makes

First the similarity of the layers is measured on Alpaca rows. Then every way is tuned on Alpaca with every learning
rate and one seed, and with the best rate and several other seeds. Some of the ways have equal size: groups against LoRA
at a smaller rank, against adapters on the first layer of each group alone, and against groups of layers far apart; and
groups with the larger rank that they leave room for against LoRA. Runs that have ended are not repeated: an interrupted
comparison goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
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
from benchmarks.scores.groups import Compared, GroupsExperiment, ensure_similarity, quick, ways
from benchmarks.scores.groups_tables import compose, loss_table, plot
from sharelora.layer_groups import FILE, GroupingSettings
from sharelora.reporting.document import write_document
from sharelora.support.errors import UserError, run_main

# At the papers' 0.85 only two of the eight layers of the small model that this is made for remain distinct.
THRESHOLD = 0.9
SHOWN = (0.75, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    add_comparison_flags(parser, "groups_results", "groups.md")
    add = parser.add_argument
    add("--model", help="folder of a pre-trained LLaMA")
    add("--threshold", type=float, default=THRESHOLD, help="least cosine similarity of the layers of a group")
    add("--ways", help="some of them, comma-separated; all unless given")
    add("--updates", type=int, help="of a run")
    return parser.parse_args(argv)


def experiment_from(args: argparse.Namespace) -> GroupsExperiment:
    """Return the experiment that the command line describes, still without its ways.

    Raises:
        UserError: fewer than one seed or update, or no model.
    """
    if args.seeds < 1 or (args.updates is not None and args.updates < 1):
        raise UserError(f"found --seeds {args.seeds} and --updates {args.updates}; need at least 1 of each")
    if args.model is None and not args.quick:
        raise UserError("found no --model; need the folder of a pre-trained LLaMA; add it, or --quick")
    updates = {} if args.updates is None else {"updates": args.updates}
    model = str(Path(args.model).resolve()) if args.model else None
    experiment = GroupsExperiment(model, args.threshold, SHOWN, seeds=tuple(range(args.seeds)), **updates)
    return quick(experiment) if args.quick else experiment


def search_and_train(experiment: GroupsExperiment, root: Path, jobs: int, names: str | None = None) -> Compared:
    """Do everything that is not done yet.

    Args:
        experiment: what is compared; its ways are found here.
        root: the folder of all runs.
        jobs: worker processes.
        names: of some ways, comma-separated; None for all.
    """
    # Before anything is written into a folder of another comparison.
    experiment.remember(root)
    similarity = ensure_similarity(experiment, root)
    every = ways(similarity, root / FILE, experiment.threshold)
    experiment = replace(experiment, ways={name: every[name] for name in chosen_names(names, every, "way")})
    return Compared(experiment, similarity, *experiment.search_and_train(root, jobs))


def main() -> None:
    """Run what is missing and write the document with its pictures."""
    args = arguments()
    set_data_folder(args)
    experiment = experiment_from(args)
    compared = search_and_train(experiment, output_folder(args), args.jobs, args.ways)
    from sharelora.layer_groups.show import draw

    document = document_path(args)
    best = GroupingSettings("optimal", experiment.threshold).apply(compared.similarity)
    draw(compared.similarity, document.with_name("groups_similarity"), groups=best.groups)
    plot(compared.experiment.ways, compared.outcomes, document.with_suffix(""))
    write_document(document, compose(compared))
    print(loss_table(compared.experiment.ways, compared.outcomes))
    print(f"wrote {document}")


if __name__ == "__main__":
    run_main(main)
