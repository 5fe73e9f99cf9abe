"""Groups of similar layers against LoRA, pairs, ShareA and dropped layers, on a pre-trained LLaMA.

    python benchmarks/scores/groups_results.py --model DIR --jobs 2    all of it, then docs/results/groups.md
    python benchmarks/scores/groups_results.py --quick                 a minute, on what the project makes

First the similarity of the layers is measured on Alpaca rows. Then every way is tuned on Alpaca with every learning
rate and one seed, and with the best rate and several other seeds. Some of the ways have equal size: groups against LoRA
at a smaller rank, against adapters on the first layer of each group only, and against groups of layers far apart; and
groups with the larger rank that they leave room for against LoRA. Runs that have ended are not repeated: an interrupted
comparison resumes where it stopped.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.harness.command import (
    add_comparison_flags,
    chosen_names,
    counts_from,
    document_path,
    new_parser,
    output_folder,
    set_data_folder,
)
from benchmarks.harness.experiment import Outcomes
from benchmarks.harness.report import mean_and_deviation, plot_scores, table
from benchmarks.scores.groups import (
    MODULES,
    RANK,
    RECIPE,
    Compared,
    GroupsExperiment,
    Outcome,
    Way,
    ensure_similarity,
    quick,
    ways,
)
from sharelora.layer_groups import FILE, METHODS, GroupingSettings, Similarity
from sharelora.reporting.document import opening, provenance, write_document
from sharelora.support.errors import UserError, run_main
from sharelora.support.text import size

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
    counts = counts_from(args)
    if args.model is None and not args.quick:
        raise UserError("found no --model; need the folder of a pre-trained LLaMA; add it, or --quick")
    model = str(Path(args.model).resolve()) if args.model else None
    experiment = GroupsExperiment(model, args.threshold, SHOWN, **counts)
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


def loss_table(ways: Mapping[str, Way], outcomes: Outcomes[Outcome]) -> str:
    """Return a row per way: sizes, the loss before and after, and the difference to LoRA within a seed."""
    lora = {run.seed: end.loss for run, end in outcomes.get("lora", {}).items()}
    rows = []
    for name, way in ways.items():
        runs = outcomes.get(name)
        if not runs:
            continue
        ended = list(runs.values())
        gaps = [end.loss - lora[run.seed] for run, end in runs.items() if run.seed in lora]
        rows.append(
            (
                way.title,
                f"{ended[0].trainable:,}",
                size(max(end.bytes for end in ended)),
                f"{ended[0].before:.4f}",
                mean_and_deviation([end.loss for end in ended], 4),
                "" if name == "lora" else mean_and_deviation(gaps, 4),
                f"{next(iter(runs)).rate:g}",
                f"{statistics.fmean(end.seconds for end in ended):.0f}",
                str(len(ended)),
            )
        )
    headers = ("", "trained", "file", "loss before", "after", "against LoRA", "learning rate", "training s", "seeds")
    return table(headers, rows)


def search_table(experiment: GroupsExperiment, searched: Outcomes[Outcome]) -> str:
    """Return the held-out loss of every learning rate that was tried, the chosen one in bold."""
    return experiment.search_table(
        searched, ("",), lambda way: (experiment.ways[str(way)].title,), lambda outcome: f"{outcome.loss:.4f}"
    )


def groups_table(experiment: GroupsExperiment, similarity: Similarity) -> str:
    """Return a row per threshold and method: groups, distinct layers and the least similar pair that shares."""
    matrix, rows = similarity.matrix(), []
    for threshold in experiment.thresholds:
        for name, method in METHODS.items():
            grouping = method(matrix, threshold)
            rows.append(
                (
                    f"{threshold:g}",
                    name,
                    f"{grouping.distinct} of {grouping.layers}",
                    f"{grouping.saving:.1%}",
                    f"{min(grouping.least):.4f}" if grouping.least else "-",
                    grouping.text().replace(";", "; ") or "none",
                )
            )
    return table(("threshold", "method", "distinct layers", "saved", "least similar pair", "groups"), rows)


def compose(compared: Compared) -> str:
    """Return the document without notes."""
    experiment, similarity = compared.experiment, compared.similarity
    recipe = " ".join(f"--{name} {value}" for name, value in RECIPE.items())
    return "\n\n".join(
        (
            opening(provenance("Groups of similar layers")),
            f"Model: `{similarity.model}`, {similarity.layers} layers. Similarity: cosine of the last token's states "
            f"of each two layers, mean over {similarity.texts} Alpaca rows (`sharelora similarity`).",
            "![How similar the layers are](groups_similarity.svg)",
            "## Groups at several thresholds",
            groups_table(experiment, similarity),
            f"## Tuning\n\n{experiment.updates} updates with `qlora_share.py {recipe}`, adapters on "
            f"{', '.join(MODULES)} with r {RANK} unless another is named, alpha twice as much; groups at threshold "
            f"{experiment.threshold:g}. The loss is per answer token of {experiment.held_out} held-out rows; ± is the "
            "standard deviation over seeds, and `against LoRA` is formed within a seed.",
            loss_table(experiment.ways, compared.outcomes),
            "![Loss over trained parameters](groups.svg)",
            "## Learning rates\n\nHeld-out loss after as many updates, with their own seed; the best (bold) was taken.",
            search_table(experiment, compared.searched),
        )
    )


def plot(ways: Mapping[str, Way], outcomes: Outcomes[Outcome], stem: Path) -> list[Path]:
    """Draw the loss after training, the smallest adapter at the top; ways of equal size have a colour in common.

    Returns:
        The files: SVG and PNG.
    """
    ended = {str(name): list(runs.values()) for name, runs in outcomes.items()}
    names = sorted(ended, key=lambda name: ended[name][0].trainable)
    sizes = sorted({ended[name][0].trainable for name in names})
    return plot_scores(
        [f"{ways[name].title} ({ended[name][0].trainable:,})" for name in names],
        {"": [[end.loss for end in ended[name]] for name in names]},
        "held-out loss (nats per answer token); in brackets the trained parameters",
        stem,
        colours=[f"C{sizes.index(ended[name][0].trainable) % 10}" for name in names],
        width=7.5,
    )


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
