"""LoRA and its shared forms on the full E2E data with a small pre-trained GPT-2: search, training, decoding, table.

    python benchmarks/e2e_results.py --corpus ../shared/corpus/novels.tar.xz --jobs 2    all, to docs/results/e2e.md
    python benchmarks/e2e_results.py --model DIR --jobs 2      the same with another pre-trained GPT-2
    python benchmarks/e2e_results.py --quick                   a minute, on what the project makes; no documents

First every way of sharing is trained with every learning rate for a short time; the best rate is that with the lowest
loss on validation rows. Then each is trained with several seeds for the same number of updates, decodes the 630
distinct inputs of the test set with beam 10 and is scored with the challenge's five metrics. Stages that have ended are
not repeated: an interrupted comparison goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "results" / "e2e.md"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", help="folder of a pre-trained GPT-2")
    add("--corpus", help="instead of --model: text to pre-train one on, as benchmarks/pretrain_gpt2.py does")
    add("--data", help="folder of the data sets; SHARELORA_DATA or ../shared/data unless given")
    add("--shares", help="ways of sharing, comma-separated; none,a,b,ab unless given")
    add("--seeds", type=int, default=3, help="how many")
    add("--updates", type=int, help="of a compared run")
    add("--jobs", type=int, default=1, help="worker processes of one thread each; 0: this process")
    add("--output", default=str(ROOT / "runs" / "e2e_results"), metavar="DIR", help="where the runs lie")
    add("--document", default=str(DOCUMENT), metavar="FILE", help="the table as Markdown")
    add("--quick", action="store_true", help="in small, to see that it works; writes into DIR alone")
    return parser.parse_args(argv)


def experiment_from(given: argparse.Namespace) -> Any:
    """Return the experiment that the command line describes; a model that is not there yet is pre-trained.

    Raises:
        UserError: an unknown way of sharing, fewer than one seed, or no model.
    """
    from benchmarks.e2e_experiment import TITLES, Experiment, chosen, quick
    from sharelora import UserError
    from sharelora.metrics import java

    if given.seeds < 1 or (given.updates is not None and given.updates < 1):
        raise UserError(f"found --seeds {given.seeds} and --updates {given.updates}; need at least 1 of each")
    shares = chosen(given.shares, tuple(TITLES))
    options = {} if given.updates is None else {"updates": given.updates}
    if given.quick:
        return quick(Experiment(None, shares=shares, seeds=tuple(range(given.seeds)), **options))
    java.jar(java.METEOR)
    return Experiment(_model(given), shares=shares, seeds=tuple(range(given.seeds)), **options)


def _model(given: argparse.Namespace) -> str:
    from sharelora import UserError

    if given.model:
        return str(Path(given.model).resolve())
    if not given.corpus:
        raise UserError("found neither --model nor --corpus; need a pre-trained GPT-2, or text to pre-train one on")
    from benchmarks.pretrain_gpt2 import ensure_gpt2

    return str(ensure_gpt2(given.corpus))


def place_data(given: argparse.Namespace) -> None:
    """Tell the jobs where the data sets are; the small model's own data is made by them."""
    beside = ROOT.parent / "shared" / "data"
    if given.quick:
        os.environ.pop("SHARELORA_DATA", None)
    elif given.data or ("SHARELORA_DATA" not in os.environ and beside.is_dir()):
        os.environ["SHARELORA_DATA"] = str(given.data or beside)


def search_and_train(experiment: Any, root: Path, jobs: int) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Do all runs.

    Returns:
        What the search and the compared runs came to, by way of sharing.
    """
    from benchmarks.e2e_runner import remember, run_all
    from benchmarks.e2e_table import best_rates, collect

    remember(experiment, root)
    run_all(experiment, experiment.search(), root, jobs)
    searched = collect(experiment.search(), root)
    runs = experiment.main(best_rates(searched))
    run_all(experiment, runs, root, jobs)
    return searched, collect(runs, root)


def main() -> None:
    """Run what is missing and write the document with its plot."""
    given = arguments()
    from benchmarks.e2e_document import compose
    from benchmarks.e2e_table import plot, score_table
    from benchmarks.glue_document import write_document

    place_data(given)
    experiment = experiment_from(given)
    root = Path(given.output) / "quick" if given.quick else Path(given.output)
    searched, found = search_and_train(experiment, root, given.jobs)
    document = root / "e2e.md" if given.quick else Path(given.document)
    plot(experiment, found, document.with_suffix(""))
    write_document(document, compose(experiment, searched, found))
    print(score_table(experiment, found))
    print(f"wrote {document}")


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
