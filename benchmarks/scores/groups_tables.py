"""The comparison of layer groups as a document: groups at several thresholds, losses, learning rates, and a plot."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness.experiment import Outcomes
from benchmarks.harness.report import mean_and_deviation, table
from benchmarks.harness.score_plot import plot_scores
from benchmarks.scores.groups import MODULES, RANK, RECIPE, Compared, GroupsExperiment, Outcome, Way
from sharelora.layer_groups import METHODS, Similarity
from sharelora.reporting.document import opening, provenance
from sharelora.support.text import size


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
            "## Learning rates\n\nHeld-out loss after as many updates, with a seed of their own; the best (bold) was "
            "taken.",
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
