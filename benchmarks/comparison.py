"""One configuration measured for all variants, the goals, and the report about both."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch

from benchmarks import report
from benchmarks.bases import DTYPES, build_base, random_batch, stack_config, twin
from benchmarks.cells import Cell
from benchmarks.memory import measure_apart
from benchmarks.timing import BUSY_PERCENT, OtherLoad, Sample, Spread, TrainStep, interleave, ratio
from benchmarks.variants import VARIANTS, choose
from sharelora import UserError

# What the project promises for hidden 1024, 4 or more layers, 7 linear maps, rank 16, 1024 tokens, bf16, per dropout:
# at most so many times the frozen floor, at least so many times faster than PEFT.
GOALS = {0.0: (1.12, 1.4), 0.1: (1.5, 1.6)}
OURS = ("none", "a", "ab", "qkv")


def parse_list(dtypes: str, dropouts: str) -> tuple[list[str], list[float]]:
    """Read the comma-separated precisions and dropouts.

    Raises:
        UserError: an unknown precision, or a dropout that is no probability below 1.
    """
    names = [name.strip() for name in dtypes.split(",")]
    unknown = [name for name in names if name not in DTYPES]
    if unknown:
        raise UserError(f"--dtype {unknown[0]!r} is unknown; need some of {', '.join(DTYPES)}; separate with commas")
    try:
        values = [float(value) for value in dropouts.split(",")]
    except ValueError as error:
        raise UserError(f"--dropout {dropouts!r} is no list of numbers; need e.g. 0,0.1") from error
    if not all(0 <= value < 1 for value in values):
        raise UserError(f"--dropout {dropouts!r}; need probabilities of at least 0 and below 1")
    return names, values


def prepare(cell: Cell, names: list[str], device: torch.device) -> dict[str, TrainStep]:
    """Make every variant ready, all on the weights of one base.

    Raises:
        UserError: a size that makes no model.
    """
    if cell.hidden < 64 or cell.hidden % 64 or min(cell.layers, cell.rank, cell.tokens) < 1:
        raise UserError(
            f"found hidden {cell.hidden}, layers {cell.layers}, rank {cell.rank}, tokens {cell.tokens}; "
            "need a hidden size that 64 divides, and at least 1 of the others"
        )
    torch.manual_seed(0)
    dtype = DTYPES[cell.dtype]
    config = stack_config(cell.hidden, cell.layers)
    base = build_base(config, device, dtype)
    batch = random_batch(config, 1, cell.tokens, device, dtype)
    return {name: TrainStep.of(twin(base), name, cell.adapter(), batch) for name in names}


def compare(cell: Cell, given: argparse.Namespace, memory: bool) -> dict[str, Any]:
    """Measure one configuration.

    Args:
        cell: the configuration.
        given: the command line: variants, rounds, device, threads.
        memory: whether to measure peak memory, in a process per variant.
    """
    device = torch.device(given.device)
    names = choose(given.variants, cell.dtype)
    print(f"measuring {cell.title()}: {', '.join(names)}", file=sys.stderr, flush=True)
    steps = prepare(cell, names, device)
    with OtherLoad() as load:
        samples = interleave(steps, given.rounds)
    counts = {name: sum(p.numel() for p in step.parameters) for name, step in steps.items()}
    del steps
    rows = {name: {"trainable": counts[name], **describe(name, samples)} for name in names}
    for name in names if memory else ():
        rows[name]["memory"] = measure_apart(cell, name, torch.get_num_threads(), device)
    return {"cell": cell.data(), "others_percent": load.percent, "variants": rows}


def describe(name: str, samples: dict[str, list[Sample]]) -> dict[str, Any]:
    """Return a variant's times, and its ratios to the floor and to PEFT where these were measured too."""
    own = samples[name]
    floor, peft = samples.get("floor"), samples.get("peft")
    return {
        "step": Spread.of([sample.step for sample in own]).data(),
        "optimizer": Spread.of([sample.update for sample in own]).data(),
        "to_floor": ratio(own, floor).data() if floor else None,
        # How many times faster than PEFT.
        "speedup": ratio(peft, own).data() if peft else None,
    }


def check_goals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare the measured cells that the goals are about with them; empty where there is none."""
    found = []
    for row in rows:
        cell = Cell(**row["cell"])
        fits = (cell.hidden, cell.rank, cell.tokens, cell.dtype) == (1024, 16, 1024, "bf16") and cell.layers >= 4
        if fits and cell.dropout in GOALS and {"floor", "peft"} <= set(row["variants"]):
            most, least = GOALS[cell.dropout]
            bound = row["variants"]["floor"]["speedup"]["median"]
            for name in [name for name in OURS if name in row["variants"]]:
                measured = row["variants"][name]
                slower, faster = measured["to_floor"]["median"], measured["speedup"]["median"]
                goal = {"variant": name, "layers": cell.layers, "dropout": cell.dropout}
                goal |= {"to_floor": slower, "at_most": most, "speedup": faster, "at_least": least}
                goal["floor_speedup"] = bound
                found.append({**goal, "met": slower <= most and faster >= least})
    return found


_HEADERS = ("variant", "step ms (quartiles)", "to floor", "faster than PEFT", "optimizer ms", "peak memory", "trained")


def _line(name: str, found: dict[str, Any]) -> tuple[Any, ...]:
    return (
        name,
        report.milliseconds(found["step"]),
        report.times(found["to_floor"]),
        report.times(found["speedup"]),
        report.milliseconds(found["optimizer"]),
        report.memory(found.get("memory", {}).get("peak")),
        f"{found['trainable']:,}",
    )


def _cell_table(row: dict[str, Any]) -> str:
    others = row["others_percent"]
    loud = " **Not to be relied on.**" if others > BUSY_PERCENT else ""
    lines = report.table(_HEADERS, [_line(name, found) for name, found in row["variants"].items()])
    return f"## {Cell(**row['cell']).title()}\n\nOthers used {others} % of the machine meanwhile.{loud}\n\n{lines}"


def _goal_lines(goals: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    lines = _goals(goals)
    if goals and not machine["gpu"] and "amx_bf16" not in machine["instructions"]:
        lines += (
            "\n\nThe goals are about a CPU with AMX. This one has none: the frozen base itself takes many times longer "
            "here, and what adapters cost beside it, ours or PEFT's, shrinks accordingly."
        )
    return lines


def _goals(goals: list[dict[str, Any]]) -> str:
    if not goals:
        return "The goals are about hidden 1024, 4 or more layers, rank 16, 1024 tokens, bf16: not measured here."
    return "\n".join(_goal(goal) for goal in goals)


def _goal(goal: dict[str, Any]) -> str:
    overhead = "met" if goal["to_floor"] <= goal["at_most"] else "MISSED"
    speed = "met" if goal["speedup"] >= goal["at_least"] else "MISSED"
    # Nothing that trains adapters on this base can be faster than the base alone.
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
    about = "\n".join(f"- `{name}`: {variant.about}" for name, variant in VARIANTS.items())
    rates = ", ".join(f"{name} {1000 * rate:.0f} GFLOP/s" for name, rate in result["matmul_tflops"].items())
    parts = [report.heading(result) + f"\n- product of two matrices of 1024 x 1024: {rates}"]
    parts += ["Step: forward and backward pass, median over rounds.\n\n" + about]
    parts += [_cell_table(row) for row in result["cells"]]
    parts.append("## Goals\n\n" + _goal_lines(result["goals"], result["machine"]))
    if result["growth"]:
        parts.append("## Growth\n\n" + _growth_table(result["growth"]))
    return "\n\n".join(parts) + "\n"
