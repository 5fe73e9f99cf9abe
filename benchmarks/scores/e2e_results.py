"""LoRA and its shared forms on the full E2E data with a small pre-trained GPT-2: search, training, decoding, table.

    python benchmarks/scores/e2e_results.py --corpus ../shared/corpus/novels.tar.xz --jobs 2      to docs/results/e2e.md
    python benchmarks/scores/e2e_results.py --model DIR --jobs 2      the same with another pre-trained GPT-2
    python benchmarks/scores/e2e_results.py --quick                   a minute, on what the project makes

First every way of sharing is trained with every learning rate for a short time; the best rate is that with the lowest
loss on validation rows. Then each is trained with several seeds for the same number of updates, decodes the 630
distinct inputs of the test set with beam 10 and is scored with the challenge's five metrics. Stages that have ended are
not repeated: an interrupted comparison goes on where it stopped.
"""

from __future__ import annotations

import argparse
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
from benchmarks.scores.e2e import TITLES, E2EExperiment, quick
from benchmarks.scores.e2e_tables import compose, plot, score_table
from sharelora.reporting.document import write_document
from sharelora.support.errors import UserError, run_main


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    add_comparison_flags(parser, "e2e_results", "e2e.md")
    add = parser.add_argument
    add("--model", help="folder of a pre-trained GPT-2")
    add("--corpus", help="instead of --model: text to pre-train one on, as benchmarks/scores/pretrain_gpt2.py does")
    add("--shares", help="ways of sharing, comma-separated; none,a,b,ab unless given")
    add("--updates", type=int, help="of a compared run")
    return parser.parse_args(argv)


def experiment_from(args: argparse.Namespace) -> E2EExperiment:
    """Return the experiment that the command line describes; a model that does not exist yet is pre-trained.

    Raises:
        UserError: an unknown way of sharing, fewer than one seed, or no model.
    """
    from sharelora.metrics import java

    if args.seeds < 1 or (args.updates is not None and args.updates < 1):
        raise UserError(f"found --seeds {args.seeds} and --updates {args.updates}; need at least 1 of each")
    shares, seeds = chosen_names(args.shares, TITLES, "sharing"), tuple(range(args.seeds))
    updates = {} if args.updates is None else {"updates": args.updates}
    if args.quick:
        return quick(E2EExperiment(None, shares=shares, seeds=seeds, **updates))
    # Hours of training would be lost without METEOR.
    java.jar(java.METEOR)
    if not args.model and not args.corpus:
        raise UserError("found neither --model nor --corpus; need a pre-trained GPT-2, or text to pre-train one on")
    if args.model:
        model = Path(args.model).resolve()
    else:
        from benchmarks.scores.pretrain_gpt2 import ensure_gpt2

        model = ensure_gpt2(args.corpus)
    return E2EExperiment(str(model), shares=shares, seeds=seeds, **updates)


def main() -> None:
    """Run what is missing and write the document with its plot."""
    args = arguments()
    set_data_folder(args)
    experiment = experiment_from(args)
    searched, compared = experiment.search_and_train(output_folder(args), args.jobs)
    document = document_path(args)
    plot(experiment, compared, document.with_suffix(""))
    write_document(document, compose(experiment, searched, compared))
    print(score_table(experiment, compared))
    print(f"wrote {document}")


if __name__ == "__main__":
    run_main(main)
