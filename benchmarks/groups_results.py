"""Groups of similar layers against LoRA, pairs, ShareA and dropped layers, on a really pre-trained LLaMA.

    python benchmarks/groups_results.py --model ../shared/models/tiny-llama --jobs 2    all, to docs/results/groups.md
    python benchmarks/groups_results.py --quick      a minute, on what the project makes; no documents

First the similarity of the layers is measured on Alpaca rows. Then every way is tuned on Alpaca with every learning
rate and one seed, and with the best rate and several other seeds. Among the ways are some
of equal size: groups against LoRA at a smaller rank, against adapters on the first layer of each group alone, and
against groups of layers far apart; and groups with the larger rank that they leave room for against LoRA. Runs that
have ended are not repeated: an interrupted comparison goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "results" / "groups.md"
# At the papers' 0.85 only two of the eight layers of the small model that this is made for remain distinct.
THRESHOLD = 0.9
SHOWN = (0.75, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", help="folder of a pre-trained LLaMA")
    add("--data", help="folder of the data sets; SHARELORA_DATA or ../shared/data unless given")
    add("--threshold", type=float, default=THRESHOLD, help="cosine similarity that layers of a group reach")
    add("--ways", help="some of them, comma-separated; all unless given")
    add("--seeds", type=int, default=3, help="how many")
    add("--updates", type=int, help="of a run")
    add("--jobs", type=int, default=1, help="worker processes of one thread each; 0: this process")
    add("--output", default=str(ROOT / "runs" / "groups_results"), metavar="DIR", help="where the runs lie")
    add("--document", default=str(DOCUMENT), metavar="FILE", help="the tables as Markdown")
    add("--quick", action="store_true", help="in small, to see that it works; writes into DIR alone")
    return parser.parse_args(argv)


def experiment_from(given: argparse.Namespace) -> Any:
    """Return the experiment that the command line describes.

    Raises:
        UserError: fewer than one seed or update, or no model.
    """
    from benchmarks.groups_experiment import Experiment, quick
    from sharelora import UserError

    if given.seeds < 1 or (given.updates is not None and given.updates < 1):
        raise UserError(f"found --seeds {given.seeds} and --updates {given.updates}; need at least 1 of each")
    options = {} if given.updates is None else {"updates": given.updates}
    model = str(Path(given.model).resolve()) if given.model else None
    experiment = Experiment(model, given.threshold, SHOWN, seeds=tuple(range(given.seeds)), **options)
    if given.quick:
        return quick(experiment)
    if model is None:
        raise UserError("found no --model; need the folder of a pre-trained LLaMA; add it, or --quick")
    return experiment


def search_and_train(experiment: Any, root: Path, jobs: int, names: str | None = None) -> Any:
    """Do everything that is not done yet.

    Args:
        experiment: what is compared.
        root: below it every run has its folder.
        jobs: worker processes.
        names: of some ways, comma-separated.

    Returns:
        What was measured, as `groups_table.Compared`.
    """
    from benchmarks.e2e_experiment import chosen
    from benchmarks.groups_experiment import ways
    from benchmarks.groups_runner import ensure_similarity, remember, run_all
    from benchmarks.groups_table import Compared, best_rates, collect
    from sharelora.layer_groups import FILE

    remember(experiment, root)
    similarity = ensure_similarity(experiment, root)
    every = ways(similarity, root / FILE, experiment.threshold)
    compared = {name: every[name] for name in chosen(names, tuple(every))}
    run_all(experiment, compared, experiment.search(compared), root, jobs)
    searched = collect(experiment.search(compared), root)
    runs = experiment.main(best_rates(searched))
    run_all(experiment, compared, runs, root, jobs)
    return Compared(similarity, compared, searched, collect(runs, root))


def compose(experiment: Any, done: Any) -> str:
    """Return the document without notes."""
    from benchmarks import report
    from benchmarks.groups_experiment import MODULES, RANK, RECIPE
    from benchmarks.groups_table import groups_table, loss_table, search_table

    recipe = " ".join(f"--{name} {value}" for name, value in RECIPE.items())
    about = (
        f"Model: `{done.similarity.model}`, {done.similarity.layers} layers. Similarity: cosine of the last token's "
        f"states of each two layers, mean over {done.similarity.texts} Alpaca rows (`sharelora similarity`)."
    )
    tuning = (
        f"{experiment.updates} updates with `qlora_share.py {recipe}`, adapters on {', '.join(MODULES)} with r {RANK} "
        "unless another is named, alpha twice as much; "
        f"groups at threshold {experiment.threshold:g}. The loss is per answer token of {experiment.held_out} held-out "
        "rows; ± is the standard deviation over seeds, and `against LoRA` is formed within a seed."
    )
    search = "Held-out loss after as many updates, with a seed of their own; the best (bold) was taken."
    return "\n\n".join(
        (
            report.heading(report.facts("Groups of similar layers", {})),
            about,
            "![How similar the layers are](groups_similarity.svg)",
            "## Groups at several thresholds",
            groups_table(experiment, done.similarity),
            f"## Tuning\n\n{tuning}",
            loss_table(done.ways, done.found),
            "![Loss over trained parameters](groups.svg)",
            f"## Learning rates\n\n{search}",
            search_table(experiment, done.ways, done.searched),
        )
    )


def place_data(given: argparse.Namespace) -> None:
    """Tell the jobs where the data sets are; the small model's own data is made by them."""
    beside = ROOT.parent / "shared" / "data"
    if given.quick:
        os.environ.pop("SHARELORA_DATA", None)
    elif given.data or ("SHARELORA_DATA" not in os.environ and beside.is_dir()):
        os.environ["SHARELORA_DATA"] = str(given.data or beside)


def main() -> None:
    """Run what is missing and write the document with its pictures."""
    given = arguments()
    from benchmarks.glue_document import write_document
    from benchmarks.groups_table import loss_table, plot
    from sharelora.layer_groups import GroupingSettings
    from sharelora.layer_groups.show import draw

    place_data(given)
    experiment = experiment_from(given)
    root = Path(given.output) / "quick" if given.quick else Path(given.output)
    done = search_and_train(experiment, root, given.jobs, given.ways)
    document = root / "groups.md" if given.quick else Path(given.document)
    best = GroupingSettings("optimal", experiment.threshold).apply(done.similarity)
    draw(done.similarity, document.with_name("groups_similarity"), groups=best.groups)
    plot(done.ways, done.found, document.with_suffix(""))
    write_document(document, compose(experiment, done))
    print(loss_table(done.ways, done.found))
    print(f"wrote {document}")


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
