"""Scores of runs: over steps, over seeds, against the number of parameters."""

from __future__ import annotations

from collections.abc import Sequence

from sharelora.reporting.figures.experiments import Experiment, mean_text, spread
from sharelora.reporting.pictures import Drawn, new_figure
from sharelora.support.errors import UserError

NOTE = "± is the sample standard deviation over seeds."


def draw_steps(experiments: Sequence[Experiment], metric: str) -> Drawn:
    """Draw a number over the steps of training, mean and standard deviation over seeds.

    Raises:
        UserError: a run in which it was not measured, or seeds that have no step in common.
    """
    figure = new_figure(7.0, 4.0)
    axes = figure.add_subplot()
    rows: list[tuple[str, ...]] = [("run", "seeds", "step", metric)]
    for one in experiments:
        points = _points(one, metric)
        steps = list(points)
        middle, deviation = zip(*(spread(values) for values in points.values()), strict=True)
        line = axes.plot(steps, middle, ".-", label=one.name)[0]
        low, high = ([m + sign * d for m, d in zip(middle, deviation, strict=True)] for sign in (-1, 1))
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        rows += [(one.name, str(len(one.rows)), str(step), mean_text(values)) for step, values in points.items()]
    axes.set(xlabel="updates", ylabel=metric)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return Drawn(figure, rows, NOTE)


def _points(one: Experiment, metric: str) -> dict[int, list[float]]:
    """Return the numbers of all seeds at the steps that all have."""
    courses = one.courses(metric)
    common = sorted(set.intersection(*(set(course) for course in courses)))
    if not common:
        raise UserError(
            f"the seeds of {one.name} have no step in common at which {metric} was measured; draw them one by one"
        )
    return {step: [course[step] for course in courses] for step in common}


def draw_seeds(experiments: Sequence[Experiment], metric: str) -> Drawn:
    """Draw a row per experiment: a dot per seed, mean and standard deviation.

    Raises:
        UserError: a run without the number.
    """
    scores = [(one.name, one.values(metric)) for one in experiments]
    figure = new_figure(7.0, 1.0 + 0.4 * len(scores))
    axes = figure.add_subplot()
    for row, (_, values) in enumerate(scores):
        mean, deviation = spread(values)
        axes.plot(values, [row - 0.15] * len(values), ".", color=f"C{row % 10}", alpha=0.5)
        axes.errorbar(mean, row + 0.12, xerr=deviation, fmt="o", color=f"C{row % 10}", capsize=3, markersize=5)
    axes.set_yticks(range(len(scores)), [name for name, _ in scores])
    axes.set_ylim(len(scores) - 0.5, -0.5)
    axes.set_xlabel(f"{metric}: every seed, mean and standard deviation")
    axes.grid(axis="x", alpha=0.3)
    rows = [(name, str(len(values)), mean_text(values)) for name, values in scores]
    return Drawn(figure, [("run", "seeds", metric), *rows], NOTE)


def draw_parameters(experiments: Sequence[Experiment], metric: str) -> Drawn:
    """Draw a number against the trained parameters, mean and standard deviation over seeds.

    Raises:
        UserError: a run without the number or without a count of parameters.
    """
    figure = new_figure(6.0, 4.0)
    # Optional package; `new_figure` has said so where it is missing.
    from matplotlib.ticker import EngFormatter

    axes = figure.add_subplot()
    rows: list[tuple[str, ...]] = [("run", "seeds", "trainable", metric)]
    for index, one in enumerate(experiments):
        count, (mean, deviation) = one.values("trainable")[0], spread(one.values(metric))
        axes.errorbar(count, mean, yerr=deviation, fmt="o", color=f"C{index % 10}", capsize=3, label=one.name)
        rows.append((one.name, str(len(one.rows)), f"{count:,.0f}", mean_text(one.values(metric))))
    axes.set(xscale="log", xlabel="trained parameters", ylabel=metric)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(EngFormatter(sep=""))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return Drawn(figure, rows, NOTE)
