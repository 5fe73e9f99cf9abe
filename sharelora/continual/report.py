"""What a sequence leaves: a result per way of sharing, for `sharelora compare`, and a document of all of them."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sharelora.continual.scores import SCORES
from sharelora.continual.sequence import TaskSequence
from sharelora.continual.stages import Course
from sharelora.metrics.continual import Matrix, Summary, summarise
from sharelora.reporting.compare import layout
from sharelora.reporting.environment import git_commit, machine_facts, versions
from sharelora.reporting.pictures import new_figure, save_figure
from sharelora.reporting.results import write_result
from sharelora.support.files import read_json, require_writable, write_text
from sharelora.training.output import ADAPTER

KIND = "continual"


def metrics(sequence: TaskSequence, course: Course) -> dict[str, Any]:
    """Return every number of one way of sharing: the summary, the scores at the end, and the whole matrix."""
    found = _summary(sequence, course)
    return {
        f"average_{sequence.score}": found.average,
        "forgetting": found.forgetting,
        "backward_transfer": found.backward,
        "forward_transfer": found.forward,
        **{f"{name}_{sequence.score}": score for name, score in zip(sequence.tasks, course.matrix[-1], strict=True)},
        "tasks": list(sequence.tasks),
        "matrix": [list(row) for row in course.matrix],
    }


def _summary(sequence: TaskSequence, course: Course) -> Summary:
    return summarise(course.matrix, SCORES[sequence.score].lower_is_better)


def write_course(sequence: TaskSequence, course: Course) -> Path:
    """Write the result of one way of sharing; model, settings and plan are those of its last stage."""
    last = read_json(course.last / "result.json")
    config = {**last["config"], "tasks": list(sequence.tasks), "score": sequence.score, "limit": sequence.limit}
    return write_result(
        sequence.output / course.share,
        KIND,
        config,
        metrics(sequence, course),
        last["plan"],
        {"adapter": course.last / ADAPTER},
        course.seconds,
        model=last["model"],
    )


def write_document(sequence: TaskSequence, courses: Sequence[Course], folder: Path) -> list[Path]:
    """Write `continual.md` and, where matplotlib is installed, the heat map beside it.

    Args:
        sequence: the tasks.
        courses: what became of them.
        folder: where to.

    Returns:
        The files.
    """
    score, path = SCORES[sequence.score], require_writable(folder) / f"{KIND}.md"
    pictures = plot(sequence.tasks, courses, score.title, score.lower_is_better, path.with_suffix(""))
    write_text(path, document(sequence, courses, [picture.name for picture in pictures]))
    return [path, *pictures]


def document(sequence: TaskSequence, courses: Sequence[Course], pictures: Sequence[str]) -> str:
    """Return the document: how it was made, four numbers per way of sharing, and every matrix."""
    score = SCORES[sequence.score]
    better = "lower" if score.lower_is_better else "higher"
    parts = [
        _opening(),
        f"One adapter learns {', then '.join(sequence.tasks)}; after every stage all are scored. Score: {score.title}; "
        f"{better} is better. Flags of every stage: `{' '.join(sequence.words) or '(none)'}`.",
        summary_table(sequence, courses),
        "The average is over all tasks at the end. The others are differences whose sign is that of an accuracy, for "
        "losses too: forgetting above 0 is a loss since a task's best stage (Chaudhry et al. 2018); backward transfer "
        "below 0 is harm that later tasks did to earlier ones; forward transfer above 0 is what earlier tasks gave to "
        "one that was still to come, measured from the untouched model (Lopez-Paz & Ranzato 2017).",
        f"![Scores after every stage]({pictures[0]})"
        if pictures
        else "There is no heat map: matplotlib was not installed (`pip install -e .[plots]`).",
        *(f"## share {course.share}\n\n{matrix_table(sequence.tasks, course)}" for course in courses),
    ]
    return "\n\n".join(parts) + "\n"


def summary_table(sequence: TaskSequence, courses: Sequence[Course]) -> str:
    """Return a row per way of sharing."""
    rows = [("share", "trained", "average", "forgetting", "backward transfer", "forward transfer", "seconds")]
    for course in courses:
        found, plan = _summary(sequence, course), read_json(course.last / "result.json")["plan"]
        forgetting, backward, forward = (f"{value:.4f}" for value in (found.forgetting, found.backward, found.forward))
        trained, average = f"{plan['trainable']:,}", f"{found.average:.4f}"
        rows.append((course.share, trained, average, forgetting, backward, forward, f"{course.seconds:.0f}"))
    return layout(rows, markdown=True)


def matrix_table(tasks: Sequence[str], course: Course) -> str:
    """Return a row per stage, with a column per task."""
    names = ("untouched", *(f"after {name}" for name in tasks))
    rows = [(name, *(f"{score:.4f}" for score in row)) for name, row in zip(names, course.matrix, strict=True)]
    return layout([("stage", *tasks), *rows], markdown=True)


def _opening() -> str:
    machine = machine_facts()
    where = ", ".join([*machine["gpu"], machine["cpu"], f"{machine['cores']} cores"])
    used = ", ".join(f"{name} {version}" for name, version in versions().items() if version)
    command = shlex.join([Path(sys.executable).name, *sys.argv])
    return (
        f"# Tasks learnt one after the other, {datetime.now().astimezone():%Y-%m-%d %H:%M}\n\n"
        f"- command: `{command}`\n- machine: {where}\n- versions: {used}\n- commit: {git_commit() or '-'}"
    )


# The matrices of a sequence as a picture: a panel per way of sharing, coloured by the gain over the base.


def gains(matrix: Matrix, lower_is_better: bool) -> list[list[float]]:
    """Return how much better every score is than the untouched model's; below 0 it is worse."""
    sign = -1.0 if lower_is_better else 1.0
    return [[sign * (score - before) for score, before in zip(row, matrix[0], strict=True)] for row in matrix]


def plot(tasks: Sequence[str], courses: Sequence[Course], title: str, lower_is_better: bool, stem: Path) -> list[Path]:
    """Draw the matrices.

    Args:
        tasks: in the order in which they were learnt.
        courses: one per panel.
        title: what the scores are.
        lower_is_better: whether they are losses.
        stem: the files are called so, with an ending each.

    Returns:
        The files, SVG and PNG; none where matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return []
    colours = [gains(course.matrix, lower_is_better) for course in courses]
    # One scale for all panels, the same on both sides of no change.
    most = max((abs(gain) for panel in colours for row in panel for gain in row), default=0.0) or 1.0
    figure = new_figure(1.6 + (0.75 * len(tasks) + 0.3) * len(courses), 1.5 + 0.42 * (len(tasks) + 1))
    panels = figure.subplots(1, len(courses), squeeze=False, sharey=True)[0]
    for axes, course, panel in zip(panels, courses, colours, strict=True):
        image = axes.imshow(panel, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
        _panel(axes, tasks, course, panel, most)
    scale = figure.colorbar(image, ax=panels, pad=0.02)
    scale.set_label("better than untouched by", fontsize=8)
    scale.ax.tick_params(labelsize=8)
    panels[0].set_yticks(range(len(tasks) + 1), ["untouched", *(f"after {name}" for name in tasks)], fontsize=8)
    figure.supxlabel(title, fontsize=8)
    return save_figure(figure, stem)


def _panel(axes: Any, tasks: Sequence[str], course: Course, panel: Matrix, most: float) -> None:
    for stage, row in enumerate(course.matrix):
        for task, score in enumerate(row):
            # Dark fields need light text.
            colour = "white" if abs(panel[stage][task]) > 0.6 * most else "black"
            axes.text(task, stage, f"{score:.3f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_title(f"share {course.share}", fontsize=9)
    axes.set_xticks(range(len(tasks)), tasks, fontsize=8)
    axes.tick_params(length=0)
