"""The GLUE comparison as a document: how it was made, tables of scores, differences and learning rates, and a plot."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.harness.experiment import SEARCH, SEARCH_SEED, Arm, Outcomes, Run
from benchmarks.harness.report import mean_and_deviation, plot_scores, table
from benchmarks.scores.glue import COMMON, METHODS, GlueExperiment, Outcome
from sharelora.reporting.document import opening, provenance
from sharelora.support.text import size


def by_seed(outcomes: Outcomes[Outcome], arm: Arm) -> dict[int, float]:
    """Return the scores of a task and method in hundredths, by seed."""
    return {run.seed: 100 * outcome.score for run, outcome in outcomes.get(arm, {}).items()}


def averages(experiment: GlueExperiment, outcomes: Outcomes[Outcome], method: str) -> dict[int, float]:
    """Return the mean over tasks, by seed, where all tasks of a seed have ended."""
    tasks = [by_seed(outcomes, (task, method)) for task in experiment.tasks]
    seeds = [seed for seed in experiment.seeds if all(seed in scores for scores in tasks)]
    return {seed: statistics.fmean(scores[seed] for scores in tasks) for seed in seeds}


def score_table(experiment: GlueExperiment, outcomes: Outcomes[Outcome], names: Sequence[str]) -> str:
    """Return a row per method: sizes, seconds of a run, and the scores of each task and their mean."""
    rows = []
    for method in names:
        ended = [end for task in experiment.tasks for end in outcomes.get((task, method), {}).values()]
        mean = averages(experiment, outcomes, method)
        scores = [mean_and_deviation(by_seed(outcomes, (task, method)).values(), 1) for task in experiment.tasks]
        sizes = ("-", "-", "-")
        if ended:
            seconds = statistics.fmean(end.seconds for end in ended)
            sizes = (f"{ended[0].trainable:,}", size(max(end.bytes for end in ended)), f"{seconds:.0f}")
        rows.append((METHODS[method].title, *sizes, *scores, mean_and_deviation(mean.values(), 2), f"{len(mean)}"))
    titles = [task.title for task in experiment.tasks.values()]
    return table(("", "trained", "file", "s per run", *titles, "mean", "seeds"), rows)


def difference_table(experiment: GlueExperiment, outcomes: Outcomes[Outcome], pairs: Sequence[tuple[str, str]]) -> str:
    """Return differences of the mean over tasks, formed within seeds, with the standard error of their mean."""
    rows = []
    for one, other in pairs:
        ones, others = (averages(experiment, outcomes, name) for name in (one, other))
        differences = [ones[seed] - others[seed] for seed in ones if seed in others]
        text = "-"
        if len(differences) > 1:
            error = statistics.stdev(differences) / len(differences) ** 0.5
            text = f"{statistics.fmean(differences):+.2f} ± {error:.2f}"
        rows.append((f"{METHODS[one].title} - {METHODS[other].title}", text, f"{len(differences)}"))
    return table(("", "difference in points", "seeds"), rows)


def search_table(experiment: GlueExperiment, searched: Outcomes[Outcome]) -> str:
    """Return loss and score on held-out rows of every learning rate that was tried, the chosen one in bold."""

    def labels(arm: Arm) -> tuple[str, str, str]:
        task = experiment.tasks[arm[0]]
        return task.title, task.chosen_by, METHODS[arm[1]].title

    def text(outcome: Outcome) -> str:
        return f"{outcome.loss:.4f}, {100 * outcome.score:.1f}"

    return experiment.search_table(searched, ("task", "chosen by", "method"), labels, text)


def edge_note(experiment: GlueExperiment, best: Mapping[Arm, float]) -> str:
    """Say for how many arms the best rate was the smallest or the largest that was tried."""
    least, most = min(experiment.rates), max(experiment.rates)
    low, high = (sum(rate == edge for rate in best.values()) for edge in (least, most))
    return (
        f"Of {len(best)} choices {low} fell on the smallest and {high} on the largest rate that was tried "
        f"(seed {SEARCH_SEED})."
    )


def method_lines(names: Sequence[str]) -> str:
    """Return a line per method: its flags."""
    lines = []
    for method in (METHODS[name] for name in names):
        flags = {**method.sharing, "lora_r": method.r, "lora_alpha": 2 * method.r}
        line = f"- {method.title}: `{' '.join(f'--{flag} {value}' for flag, value in flags.items())}`"
        line += "; A of all layers starts with the same numbers" if method.same_start else ""
        lines.append(line + ("; A is not trained" if method.frozen else ""))
    return "\n".join(lines)


def introduction(experiment: GlueExperiment, title: str) -> str:
    """Return the opening with command and machine, the model, and a row per task: what a run reads and trains."""
    common = " ".join(f"--{name} {value}" for name, value in COMMON.items())
    dropout = "" if experiment.dropout is None else f", and dropout {experiment.dropout:g} everywhere in the encoder"
    model = "the small RoBERTa that the project makes"
    if experiment.model is not None:
        # Of a folder inside a package, the package says what it is.
        model = "/".join(Path(experiment.model).parts[-2:])
    budgets = [
        (
            task.title,
            f"first {task.rows:,}" if task.rows else "all",
            task.updates,
            task.length,
            task.held_out,
            experiment.updates(Run(SEARCH, "lora", 0, 0.0, name)),
        )
        for name, task in experiment.tasks.items()
    ]
    headers = ("task", "training rows", "updates", "longest row", "search: rows held out", "search: updates")
    return "\n\n".join(
        (
            opening(provenance(title)),
            f"Encoder: `{model}`; adapters on query and value, and a new head, are trained. All runs "
            f"have `{common}`{dropout}.",
            table(headers, budgets),
        )
    )


def compose(
    experiment: GlueExperiment,
    searched: Outcomes[Outcome],
    compared: Outcomes[Outcome],
    names: Sequence[str],
    pairs: Sequence[tuple[str, str]],
) -> str:
    """Return the document without notes.

    Args:
        experiment: what was compared.
        searched: what the search came to.
        compared: what the compared runs came to.
        names: of the methods, from top to bottom.
        pairs: the pairs of methods to compare.
    """
    rates = ", ".join(f"{rate:g}" for rate in experiment.rates)
    return "\n\n".join(
        (
            introduction(experiment, "LoRA and its shared forms on GLUE"),
            method_lines(names),
            "## Results\n\nOn the dev set after the last update, in hundredths: mean ± standard deviation over seeds. "
            "`trained` counts the adapter without the head; `file` holds both; seconds are those of training, averaged "
            "over the tasks.",
            score_table(experiment, compared, names),
            "![Scores with standard deviations](glue.svg)",
            "Differences of the mean over tasks, formed within a seed, with the standard error:",
            difference_table(experiment, compared, pairs),
            f"## Search\n\nEvery method was trained with every learning rate ({rates}), once per task, on a part of "
            "the training rows, for the number of updates in the table above. The lowest loss, or the highest score, "
            "on the rest of them decided (bold); dev played no part. Each cell has both, the score in hundredths. "
            f"{edge_note(experiment, experiment.best_rates(searched))}",
            search_table(experiment, searched),
        )
    )


def plot(experiment: GlueExperiment, outcomes: Outcomes[Outcome], names: Sequence[str], stem: Path) -> list[Path]:
    """Draw a panel per task and one of their mean.

    Args:
        experiment: what was compared.
        outcomes: what the runs came to.
        names: methods, from top to bottom.
        stem: the path of the files without the ending.

    Returns:
        The files: SVG and PNG.
    """
    panels = {
        task.title: [list(by_seed(outcomes, (name, method)).values()) for method in names]
        for name, task in experiment.tasks.items()
    }
    panels["mean"] = [list(averages(experiment, outcomes, method).values()) for method in names]
    about = "dev score in hundredths: every seed, mean and standard deviation"
    return plot_scores([METHODS[name].title for name in names], panels, about, stem)
