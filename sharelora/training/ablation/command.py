"""`sharelora ablate`: all of a grid's trainings, a table per ablation, and a picture of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharelora.reporting.compare import joined, layout
from sharelora.reporting.figures.experiments import Experiment, mean_text, spread
from sharelora.reporting.pictures import new_figure, require_matplotlib, save_figure
from sharelora.reporting.results import read_results
from sharelora.support.files import require_writable, write_text
from sharelora.training.ablation.grid import Grid, read_grid
from sharelora.training.ablation.runs import Execute, Key, Run, do_all, execute, in_order, is_done, plan_runs

NOTE = "± is the sample standard deviation over seeds."


def outcomes(grid: Grid, runs: Mapping[Key, Run]) -> dict[str, list[Experiment]]:
    """Return for every ablation its settings with the runs that have ended.

    Raises:
        UserError: a result that cannot be read.
    """
    experiments: dict[str, list[Experiment]] = {}
    for name, settings in grid.ablations.items():
        experiments[name] = []
        for setting in settings:
            ended = [run for run in (runs[name, setting.label, seed] for seed in grid.seeds) if is_done(run)]
            rows = tuple(joined(read_results(run.folder))[0] for run in ended)
            experiments[name].append(Experiment(setting.label, rows))
    return experiments


def table(name: str, experiments: Sequence[Experiment], metric: str, markdown: bool = False) -> str:
    """Return a line per setting: trained parameters, mean and deviation; a dash where no run has ended.

    Raises:
        UserError: a run without the metric.
    """
    rows = [(name, "seeds", "trainable", metric)]
    for one in experiments:
        numbers = ("-", "-")
        if one.rows:
            numbers = (f"{one.values('trainable')[0]:,.0f}", mean_text(one.values(metric)))
        rows.append((one.name, str(len(one.rows)), *numbers))
    return layout(rows, markdown)


def draw(experiments: Mapping[str, Sequence[Experiment]], metric: str) -> Any:
    """Draw a panel per ablation: a line over the values if they are numbers, else a point for each name."""
    shown = {name: [one for one in settings if one.rows] for name, settings in experiments.items()}
    shown = {name: settings for name, settings in shown.items() if settings}
    figure = new_figure(0.6 + 3.4 * len(shown), 3.2)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (name, settings) in zip(panels, shown.items(), strict=True):
        _panel(axes, [one.name for one in settings], [spread(one.values(metric)) for one in settings])
        axes.set(title=name, ylabel=metric)
        axes.grid(axis="y", alpha=0.3)
    return figure


def _panel(axes: Any, labels: Sequence[str], scores: Sequence[tuple[float, float]]) -> None:
    numbers = _numbers(labels)
    places = list(range(len(labels))) if numbers is None else numbers
    points = sorted((place, mean, deviation) for place, (mean, deviation) in zip(places, scores, strict=True))
    across, middle, deviations = zip(*points, strict=True)
    # Names have no distance from each other, so nothing connects them.
    axes.errorbar(across, middle, yerr=deviations, fmt="o" if numbers is None else "o-", capsize=3, markersize=5)
    if numbers is not None and min(numbers) > 0 and max(numbers) >= 4 * min(numbers):
        axes.set_xscale("log", base=2)
        axes.minorticks_off()
    if numbers is None:
        axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.set_xticks(places, labels, fontsize=8, rotation=20 if numbers is None else 0)


def _numbers(labels: Sequence[str]) -> list[float] | None:
    try:
        return [float(label) for label in labels]
    except ValueError:
        return None


def write_report(root: Path, experiments: Mapping[str, Sequence[Experiment]], metric: str) -> list[Path]:
    """Write the tables and the picture into the grid's folder, and return the files."""
    tables = [table(name, settings, metric, markdown=True) for name, settings in experiments.items()]
    write_text(root / "ablation.md", "\n\n".join([*tables, NOTE]) + "\n")
    drawn = any(one.rows for settings in experiments.values() for one in settings)
    return [root / "ablation.md", *(save_figure(draw(experiments, metric), root / "ablation") if drawn else [])]


def ablate(grid_file: str | Path, output: str | Path, only: str | None = None, execute: Execute = execute) -> None:
    """Train what a grid says and is not trained yet, the cheapest first; print and write its tables and its picture.

    Args:
        grid_file: see `sharelora.training.ablation.grid`.
        output: below it every run has its folder.
        only: `plan` prints the runs and trains nothing; `table` shows what has ended so far.
        execute: runs Python in a process.

    Raises:
        UserError: a grid that is empty or does not fit, or a run that failed.
    """
    require_matplotlib()
    root = Path(output)
    grid = read_grid(grid_file)
    runs = plan_runs(grid, root)
    order = in_order(list(runs.values()))
    if only == "plan":
        most = max(run.cost for run in order)
        for run in order:
            print(f"{run.cost / most:6.1%} of the most expensive  {run.folder}{'  done' if is_done(run) else ''}")
        return
    if only is None:
        require_writable(root)
        do_all(order, execute)
    experiments = outcomes(grid, runs)
    print("\n\n".join([*(table(name, settings, grid.metric) for name, settings in experiments.items()), NOTE]))
    print(f"wrote {', '.join(map(str, write_report(root, experiments, grid.metric)))}")
