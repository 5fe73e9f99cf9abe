"""Time and memory of one training step with LoRA and its shared forms, against the frozen base and other libraries.

    python benchmarks/speed/train_step.py                   the configuration that the project's goal is about
    python benchmarks/speed/train_step.py --sweep --save    with growth; into benchmarks/results
    python benchmarks/speed/train_step.py --quick           a minute, to see that it works

All variants live in one process on the very same frozen weights and take turns; medians and quartiles are over rounds,
and ratios are formed within a round. Peak memory is that of a fresh process per variant. Run it on a quiet machine:
what others use is measured and written down.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.harness import report
from benchmarks.harness.command import begin_result, fill, measure_and_report
from benchmarks.speed.steps import StackCell, base_cells, numbers, step_parser, step_report, swept_cells
from sharelora.support.errors import run_main

FULL = {"hidden": 1024, "layers": 4, "tokens": 1024, "rounds": 15}
# What is fast to measure, and small enough for any machine.
QUICK = {"hidden": 256, "layers": 2, "tokens": 256, "rounds": 5}
# The variants whose growth is plotted.
SWEPT = ("floor", "peft", "none", "a", "ab")
# What the project promises for hidden 1024, 4 or more layers, 7 linear maps, rank 16, 1024 tokens, bf16, per dropout:
# at most so many times the frozen floor, at least so many times faster than PEFT. With a dropout mask in common it is
# less.
GOALS = {0.0: (1.12, 1.4), 0.1: (1.25, 1.6)}
AT_MOST = {"none_one_mask": 1.15}
OURS = ("none", "none_one_mask", "a", "ab", "qkv")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; sizes that are not given are the goal's, or small with --quick."""
    parser = step_parser(__doc__, rank=16, variants="all", rounds=FULL["rounds"])
    add = parser.add_argument
    add("--hidden", type=int, help="hidden size, a multiple of 64 (1024)")
    add("--layers", type=int, help="decoder layers (4)")
    add("--tokens", type=int, help="tokens of the one example in a step (1024)")
    add("--dtype", default="bf16", help="precisions, comma-separated: bf16, fp32")
    add("--dropout", default="0,0.1", help="dropout of the adapters, comma-separated")
    add("--sweep", action="store_true", help="also vary layers, rank and tokens, one at a time")
    add("--memory", action=argparse.BooleanOptionalAction, help="measure peak memory too; with --quick not by default")
    args = parser.parse_args(argv)
    return fill(args, {**(QUICK if args.quick else FULL), "memory": not args.quick})


def cells_from(args: argparse.Namespace) -> list[StackCell]:
    """Return the configurations on the command line.

    Raises:
        UserError: an unknown precision, a dropout outside [0, 1), or a size that makes no model.
    """
    cell = StackCell(args.hidden, args.layers, args.rank, args.tokens)
    dtypes = [name.strip() for name in args.dtype.split(",")]
    return base_cells(cell, dtypes, numbers(args.dropout, "--dropout", float, "0,0.1"))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that the command line asks for."""
    import torch

    from benchmarks.speed.growth import series
    from benchmarks.speed.stacks import compare, matmul_rates

    bases, device = cells_from(args), torch.device(args.device)
    result = begin_result("train_step", args)
    rows = [compare(cell, args.variants, args.rounds, device, args.memory) for cell in bases]
    if args.sweep:
        # Around the base only what is plotted is measured: the rest says nothing new about growth.
        variants = args.variants or ",".join(SWEPT)
        rows += [compare(cell, variants, args.rounds, device, memory=False) for cell in swept_cells(bases)]
    result["matmul_tflops"] = matmul_rates(args.device)
    result["cells"] = rows
    result["growth"] = list(series(rows, [cell.data() for cell in bases]))
    result["goals"] = check_goals(rows)
    return result


def check_goals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare what was measured with the goals; empty where none of it has the configuration of the goals."""
    goals = []
    for row in rows:
        cell = StackCell(**row["cell"])
        fits = (cell.hidden, cell.rank, cell.tokens, cell.dtype) == (1024, 16, 1024, "bf16") and cell.layers >= 4
        if fits and cell.dropout in GOALS and {"floor", "peft"} <= set(row["variants"]):
            bound = row["variants"]["floor"]["speedup"]["median"]
            for name in [name for name in OURS if name in row["variants"]]:
                measured = row["variants"][name]
                most, least = GOALS[cell.dropout]
                most = AT_MOST.get(name, most)
                slower, faster = measured["to_floor"]["median"], measured["speedup"]["median"]
                goal = {"variant": name, "layers": cell.layers, "dropout": cell.dropout}
                goal |= {"to_floor": slower, "at_most": most, "speedup": faster, "at_least": least}
                goal["floor_speedup"] = bound
                goals.append({**goal, "met": slower <= most and faster >= least})
    return goals


_HEADERS = ("variant", "step ms (quartiles)", "to floor", "faster than PEFT", "optimizer ms", "peak memory", "trained")


def _line(name: str, row: dict[str, Any]) -> tuple[Any, ...]:
    return (
        name,
        report.milliseconds(row["step"]),
        report.times(row["to_floor"]),
        report.times(row["speedup"]),
        report.milliseconds(row["optimizer"]),
        report.memory(row.get("memory", {}).get("peak")),
        f"{row['trainable']:,}",
    )


def _goal_lines(goals: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """Say of each goal whether it is met; the machine decides what can be expected."""
    if not goals:
        return "The goals are about hidden 1024, 4 or more layers, rank 16, 1024 tokens, bf16: not measured here."
    lines = "\n".join(_goal(goal) for goal in goals)
    if not machine["gpu"] and "amx_bf16" not in machine["instructions"]:
        lines += (
            "\n\nThe goals are about a CPU with AMX. This one has none: the frozen base itself takes many times longer "
            "here, and the cost of adapters on top of it, ours or PEFT's, shrinks accordingly."
        )
    return lines


def _goal(goal: dict[str, Any]) -> str:
    overhead = "met" if goal["to_floor"] <= goal["at_most"] else "MISSED"
    speed = "met" if goal["speedup"] >= goal["at_least"] else "MISSED"
    # Nothing that trains adapters on this base can be faster than the bare base.
    bound = f"; the floor itself is {goal['floor_speedup']:.2f}x faster" if speed == "MISSED" else ""
    return (
        f"- {goal['variant']}, {goal['layers']} layers, dropout {goal['dropout']:g}: {overhead} "
        f"{goal['to_floor']:.2f}x the floor (at most {goal['at_most']}); {speed} {goal['speedup']:.2f}x "
        f"faster than PEFT (at least {goal['at_least']}{bound})"
    )


def _growth_table(curves: list[dict[str, Any]]) -> str:
    rows = [
        (
            f"{curve['base']['dtype']}, {curve['base']['dropout']:g}",
            curve["axis"],
            curve["variant"],
            f"{1000 * curve['fit']['slope']:.4g}",
            f"{curve['fit']['r2']:.4f}",
            f"{curve['adapter']['r2']:.4f}" if "adapter" in curve else "-",
        )
        for curve in curves
    ]
    headers = ("dtype, dropout", "axis", "variant", "ms per unit", "R2", "R2 of what the adapters add")
    return report.table(headers, rows)


def markdown(result: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    about = "Step: forward and backward pass, median over rounds."
    parts = step_report(result, StackCell, about, _HEADERS, _line)
    parts.append("## Goals\n\n" + _goal_lines(result["goals"], result["machine"]))
    if result["growth"]:
        parts.append("## Growth\n\n" + _growth_table(result["growth"]))
    return "\n\n".join(parts) + "\n"


def draw(result: dict[str, Any], file: Path) -> None:
    """Draw growth, where it was measured."""
    if result["growth"]:
        from benchmarks.speed.growth import plot

        plot(result["growth"], file.with_suffix(".png"))


def main() -> None:
    """Measure, print, and with --save write JSON, Markdown and a plot."""
    measure_and_report(arguments(), measure, markdown, draw)


if __name__ == "__main__":
    run_main(main)
