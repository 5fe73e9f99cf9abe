"""`sharelora ablate`: all of a grid's trainings, and its tables."""

from __future__ import annotations

from pathlib import Path

from sharelora.reporting.pictures import require_matplotlib
from sharelora.support.files import require_writable
from sharelora.training.ablation.grid import read_grid
from sharelora.training.ablation.runs import Execute, do_all, execute, in_order, is_done, plan_runs
from sharelora.training.ablation.tables import NOTE, outcomes, table, write_report


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
            print(f"{run.cost / most:6.1%} of the dearest  {run.folder}{'  done' if is_done(run) else ''}")
        return
    if only is None:
        require_writable(root)
        do_all(order, execute)
    found = outcomes(grid, runs)
    print("\n\n".join([*(table(name, settings, grid.metric) for name, settings in found.items()), NOTE]))
    print(f"wrote {', '.join(map(str, write_report(root, found, grid.metric)))}")
