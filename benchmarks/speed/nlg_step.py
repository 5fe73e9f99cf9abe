"""Training tokens per second on GPT-2 shapes: adapters on query and value, ours, PEFT's and loralib's.

    python benchmarks/speed/nlg_step.py            GPT-2 small, r 4, 8 rows of 96 tokens (E2E's) and of 512 (LoRA's)
    python benchmarks/speed/nlg_step.py --save     and write the result into benchmarks/results
    python benchmarks/speed/nlg_step.py --quick    seconds, to see that it works

LoRA's recipe fills every row up to 512 tokens; ours fills a batch up to its longest row, about 96 on E2E. Both lengths
are measured for all variants. PEFT cannot adapt parts of a fused layer: there query, key and value have one adapter.

All variants live in one process on the very same frozen weights and take turns; medians and quartiles are over rounds,
and ratios are formed within a round. Run it on a quiet machine: what others use is measured and written down.
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
from benchmarks.speed.steps import DecoderCell, numbers, step_parser, step_report
from sharelora.support.errors import run_main

FULL = {"hidden": 768, "layers": 12, "batch": 8, "tokens": "96,512", "vocab": 50257, "rounds": 10}
# What is fast to measure, and small enough for any machine.
QUICK = {"hidden": 128, "layers": 2, "batch": 4, "tokens": "32", "vocab": 512, "rounds": 5}
VARIANTS = ("floor", "peft", "loralib", "none", "a", "b", "ab")
OURS = ("none", "a", "b", "ab")
# How many times faster than loralib a step should be.
GOAL = 1.5


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; sizes that are not given are GPT-2 small's, or small with --quick."""
    parser = step_parser(__doc__, rank=4, variants=",".join(VARIANTS), rounds=10)
    add = parser.add_argument
    add("--hidden", type=int, help="hidden size, a multiple of 64 (768)")
    add("--layers", type=int, help="decoder layers (12)")
    add("--batch", type=int, help="rows of a step (8)")
    add("--tokens", help="tokens of a row, comma-separated (96,512)")
    add("--vocab", type=int, help="size of the vocabulary (50257)")
    add("--dropout", default="0,0.1", help="dropout of the adapters, comma-separated")
    args = parser.parse_args(argv)
    return fill(args, QUICK if args.quick else FULL)


def cells(args: argparse.Namespace) -> list[DecoderCell]:
    """Return the configurations that the command line asks for.

    Raises:
        UserError: a size that makes no model, or a list of something else than numbers.
    """
    return [
        DecoderCell(args.hidden, args.layers, args.rank, args.batch, tokens, args.vocab, dropout)
        for tokens in numbers(args.tokens, "--tokens", int, "96,512")
        for dropout in numbers(args.dropout, "--dropout", float, "0,0.1")
    ]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that the command line asks for.

    Raises:
        UserError: see `cells`; an unknown variant, or a busy machine with --save.
    """
    import torch

    from benchmarks.speed.decoders import compare
    from benchmarks.speed.stacks import matmul_rates
    from benchmarks.speed.variants import choose

    measured, names = cells(args), choose(args.variants, "fp32", VARIANTS)
    result = begin_result("nlg_step", args)
    result["cells"] = [compare(cell, names, args.rounds, torch.device(args.device)) for cell in measured]
    result["matmul_tflops"] = matmul_rates(args.device, ("fp32",))
    return result


_HEADERS = ("variant", "step ms (quartiles)", "tokens/s", "to floor", "faster than PEFT", "than loralib", "trained")


def _line(name: str, row: dict[str, Any]) -> tuple[Any, ...]:
    faster = row["faster_than"]
    return (
        name,
        report.milliseconds(row["step"]),
        f"{row['tokens_per_second']:,.0f}",
        report.times(row["to_floor"]),
        report.times(faster.get("peft")),
        report.times(faster.get("loralib")),
        f"{row['trainable']:,}",
    )


def goals(result: dict[str, Any]) -> list[str]:
    """Compare what was measured of ours with the goal, and with what is possible."""
    lines = []
    for row in result["cells"]:
        cell = f"{row['cell']['tokens']} tokens, dropout {row['cell']['dropout']:g}"
        faster = {name: measured["faster_than"].get("loralib") for name, measured in row["variants"].items()}
        times = {name: spread["median"] for name, spread in faster.items() if spread is not None}
        if "floor" in times:
            most = f"{times['floor']:.2f}x faster than loralib"
            lines.append(f"- {cell}: the frozen floor itself is {most}, which no adapter can exceed")
        for name in (name for name in OURS if name in times):
            met = "met" if times[name] >= GOAL else "MISSED"
            lines.append(f"- {met}: {name}, {cell}: {times[name]:.2f}x faster than loralib (at least {GOAL})")
    return lines


def recipe(result: dict[str, Any]) -> list[str]:
    """Compare rows per second as the jobs have them: ours at the shorter length, loralib's at the longer one."""
    lines = []
    for dropout in sorted({row["cell"]["dropout"] for row in result["cells"]}):
        rows = [row for row in result["cells"] if row["cell"]["dropout"] == dropout]
        rows.sort(key=lambda row: row["cell"]["tokens"])
        short, long = rows[0], rows[-1]
        theirs = long["variants"].get("loralib")
        for name in OURS if theirs and short is not long else ():
            if name in short["variants"]:
                own = short["variants"][name]
                times = theirs["step"]["median"] / own["step"]["median"]
                lengths = f"{short['cell']['tokens']} tokens a row against {long['cell']['tokens']}"
                lines.append(f"- {name}, dropout {dropout:g}: {times:.1f}x the rows per second, {lengths}")
    return lines


def markdown(result: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    about = "Step: forward, backward and optimizer, median over rounds; fp32."
    parts = step_report(result, DecoderCell, about, _HEADERS, _line)
    parts.append("## Goals\n\n" + ("\n".join(goals(result)) or "loralib was not measured."))
    if lines := recipe(result):
        parts.append("## As the jobs fill their rows, against loralib\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure, print, and with --save write JSON and Markdown."""
    measure_and_report(arguments(), measure, markdown)


if __name__ == "__main__":
    run_main(main)
