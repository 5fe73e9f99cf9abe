"""The files of a sequence: a result for each way of sharing, for `sharelora compare`, and a document of all."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharelora.continual.scores import SCORES
from sharelora.continual.sequence import TaskSequence
from sharelora.continual.stages import ShareResult, prompts_begin
from sharelora.metrics.continual import Matrix, Summary, summarise
from sharelora.reporting.compare import layout
from sharelora.reporting.document import opening, provenance
from sharelora.reporting.pictures import new_figure, save_figure
from sharelora.reporting.results import read_result, write_result
from sharelora.support.files import require_writable, write_text
from sharelora.training.arguments import ADAPTER

KIND = "continual"


def metrics(sequence: TaskSequence, result: ShareResult) -> dict[str, Any]:
    """Return every number of one way of sharing: the summary, the scores at the end, and the whole matrix."""
    summary = _summary(sequence, result)
    return {
        f"average_{sequence.score}": summary.average,
        "forgetting": summary.forgetting,
        "backward_transfer": summary.backward,
        "forward_transfer": summary.forward,
        **{f"{name}_{sequence.score}": score for name, score in zip(sequence.tasks, result.matrix[-1], strict=True)},
        "tasks": list(sequence.tasks),
        "matrix": [list(row) for row in result.matrix],
    }


def _summary(sequence: TaskSequence, result: ShareResult) -> Summary:
    return summarise(result.matrix, SCORES[sequence.score].lower_is_better)


def write_share_result(sequence: TaskSequence, result: ShareResult) -> Path:
    """Write the result of one way of sharing; model, settings and plan are those of its last stage."""
    last = read_result(result.last / "result.json")
    config = {**last.config, "tasks": list(sequence.tasks), "score": sequence.score, "limit": sequence.limit}
    return write_result(
        sequence.output / result.share,
        KIND,
        config,
        {**metrics(sequence, result), **prompts_begin(sequence)},
        last.plan,
        {"adapter": result.last / ADAPTER},
        result.seconds,
        model=last.model,
    )


def write_document(sequence: TaskSequence, results: Sequence[ShareResult], folder: Path) -> list[Path]:
    """Write `continual.md` and, where matplotlib is installed, the heat map.

    Args:
        sequence: the tasks.
        results: one for each way of sharing.
        folder: for the files.

    Returns:
        The files.
    """
    score, path = SCORES[sequence.score], require_writable(folder) / f"{KIND}.md"
    pictures = plot(sequence.tasks, results, score.title, score.lower_is_better, path.with_suffix(""))
    write_text(path, document(sequence, results, [picture.name for picture in pictures]))
    return [path, *pictures]


def document(sequence: TaskSequence, results: Sequence[ShareResult], pictures: Sequence[str]) -> str:
    """Return the document: how it was made, four numbers per way of sharing, and every matrix."""
    score = SCORES[sequence.score]
    better = "lower" if score.lower_is_better else "higher"
    parts = [
        opening(provenance("Tasks learnt one after the other")),
        f"One adapter learns {', then '.join(sequence.tasks)}; after every stage all are scored. Score: {score.title}; "
        f"{better} is better. Flags of every stage: `{' '.join(sequence.words) or '(none)'}`.",
        summary_table(sequence, results),
        "The average is over all tasks at the end. The others are differences whose sign is that of an accuracy, for "
        "losses too: forgetting above 0 is a loss since a task's best stage (Chaudhry et al. 2018); backward transfer "
        "below 0 is harm that later tasks did to earlier ones; forward transfer above 0 is what earlier tasks gave to "
        "one that was still to come, measured from the untouched model (Lopez-Paz & Ranzato 2017).",
        f"![Scores after every stage]({pictures[0]})"
        if pictures
        else "No heat map: matplotlib was not installed (`pip install -e .[plots]`).",
        *(f"## share {result.share}\n\n{matrix_table(sequence.tasks, result)}" for result in results),
    ]
    return "\n\n".join(parts) + "\n"


def summary_table(sequence: TaskSequence, results: Sequence[ShareResult]) -> str:
    """Return a row per way of sharing."""
    rows: list[tuple[str, ...]] = [
        ("share", "trained", "average", "forgetting", "backward transfer", "forward transfer", "seconds")
    ]
    for result in results:
        summary, plan = _summary(sequence, result), read_result(result.last / "result.json").plan
        scores = (summary.average, summary.forgetting, summary.backward, summary.forward)
        trained, seconds = f"{plan.get('trainable', 0):,}", f"{result.seconds:.0f}"
        rows.append((result.share, trained, *(f"{score:.4f}" for score in scores), seconds))
    return layout(rows, markdown=True)


def matrix_table(tasks: Sequence[str], result: ShareResult) -> str:
    """Return a row per stage, with a column per task."""
    names = ("untouched", *(f"after {name}" for name in tasks))
    rows = [(name, *(f"{score:.4f}" for score in row)) for name, row in zip(names, result.matrix, strict=True)]
    return layout([("stage", *tasks), *rows], markdown=True)


def gains(matrix: Matrix, lower_is_better: bool) -> list[list[float]]:
    """Return how much better every score is than the untouched model's; below 0 it is worse."""
    sign = -1.0 if lower_is_better else 1.0
    return [[sign * (score - before) for score, before in zip(row, matrix[0], strict=True)] for row in matrix]


def plot(
    tasks: Sequence[str], results: Sequence[ShareResult], title: str, lower_is_better: bool, stem: Path
) -> list[Path]:
    """Draw the matrices, a panel for each way of sharing, coloured by the gain over the untouched model.

    Args:
        tasks: in the order of learning.
        results: one per panel.
        title: of the scores.
        lower_is_better: whether they are losses.
        stem: path of the files without their endings.

    Returns:
        The files, SVG and PNG; none where matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return []
    colours = [gains(result.matrix, lower_is_better) for result in results]
    # One scale for all panels, the same on both sides of no change.
    most = max((abs(gain) for panel in colours for row in panel for gain in row), default=0.0) or 1.0
    figure = new_figure(1.6 + (0.75 * len(tasks) + 0.3) * len(results), 1.5 + 0.42 * (len(tasks) + 1))
    panels = figure.subplots(1, len(results), squeeze=False, sharey=True)[0]
    for axes, result, panel in zip(panels, results, colours, strict=True):
        image = axes.imshow(panel, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
        _panel(axes, tasks, result, panel, most)
    scale = figure.colorbar(image, ax=panels, pad=0.02)
    scale.set_label("better than untouched by", fontsize=8)
    scale.ax.tick_params(labelsize=8)
    panels[0].set_yticks(range(len(tasks) + 1), ["untouched", *(f"after {name}" for name in tasks)], fontsize=8)
    figure.supxlabel(title, fontsize=8)
    return save_figure(figure, stem)


def _panel(axes: Any, tasks: Sequence[str], result: ShareResult, panel: Matrix, most: float) -> None:
    for stage, row in enumerate(result.matrix):
        for task, score in enumerate(row):
            # Dark fields need light text.
            colour = "white" if abs(panel[stage][task]) > 0.6 * most else "black"
            axes.text(task, stage, f"{score:.3f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_title(f"share {result.share}", fontsize=9)
    axes.set_xticks(range(len(tasks)), tasks, fontsize=8)
    axes.tick_params(length=0)
