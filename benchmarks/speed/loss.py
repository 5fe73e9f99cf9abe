"""Training with a large vocabulary: the loss without logits, against PEFT with transformers' loss and others.

    python benchmarks/speed/loss.py --model DIR            the goals' sizes, about fifteen minutes on one thread
    python benchmarks/speed/loss.py --model DIR --save     and write the result into benchmarks/results
    python benchmarks/speed/loss.py --quick                seconds, a small random model, to see that it works

The model is Gemma 3 270M as `benchmarks/gemma.py` writes it, or any other causal model; with random weights of that
shape unless given. Smaller vocabularies are the first rows of its embedding. All ways live in one process on the very
same frozen weights and take turns; ratios are formed within a round. Peak memory is that of a fresh process each. TRL
stands in the table where it is installed (`pip install --no-deps trl==1.16.0`), Liger on a GPU. Run it on a quiet
machine: what others use is measured and written down.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.harness import report
from benchmarks.harness.command import (
    add_measurement_flags,
    begin_result,
    chosen_names,
    fill,
    measure_and_report,
    new_parser,
)
from benchmarks.harness.machine import load_sentence
from benchmarks.speed.steps import ROWS, LossCell, numbers
from sharelora.reporting.document import opening
from sharelora.support.errors import run_main

VOCABULARIES = "32000,128256,262144"
FULL = {"vocab": VOCABULARIES, "tokens": 1024, "batch": 4, "rounds": 7}
QUICK = {"vocab": "512", "tokens": 64, "batch": 2, "rounds": 3}
# way -> what it is.
WAYS = {
    "peft": "PEFT LoRA, transformers' loss",
    "trl": "PEFT LoRA, TRL's loss in chunks",
    "liger": "PEFT LoRA, Liger's fused loss",
    "logits": "ours, nothing shared (LoRA), transformers' loss",
    "none": "ours, nothing shared (LoRA), the loss without logits",
    "a": "ours, A shared over layers, the loss without logits",
}
OURS = ("none", "a")
# Against PEFT, with vocabularies of that size: tokens per second on Alpaca rows, peak memory of a full batch, and
# tokens per second where all positions are targets.
LEAST_VOCABULARY = 32000
FASTER, MEMORY, NEVER_SLOWER = 1.25, 0.25, 0.98


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; sizes that are not given are the goals', or small with --quick."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add(
        "--model", metavar="DIR", help="folder of a causal model; Gemma 3 270M's shape with random weights unless given"
    )
    add("--vocab", help=f"sizes of the vocabulary, comma-separated ({VOCABULARIES}); none above the model's own")
    add("--rank", type=int, default=64, help="of the adapters, on query and value")
    add("--batch", type=int, help="rows of the full batch (4)")
    add("--tokens", type=int, help="tokens of each of them (1024)")
    add("--checkpointing", action="store_true", help="compute the activations inside a layer again, for less memory")
    add("--ways", help=f"some of {','.join(WAYS)}; all that can be had unless given")
    add("--rows", help=f"some of {','.join(ROWS)}; all unless given")
    add("--rounds", type=int, help="measured rounds (7)")
    add("--device", default="cpu", help="cpu or cuda")
    add("--memory", action=argparse.BooleanOptionalAction, help="measure peak memory too; with --quick not by default")
    add_measurement_flags(parser, "small sizes, few rounds")
    args = parser.parse_args(argv)
    return fill(args, {**(QUICK if args.quick else FULL), "memory": not args.quick})


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that the command line asks for.

    Raises:
        UserError: sizes that make no batch, an unknown way, or one that cannot be had.
    """
    import torch

    from benchmarks.speed.losses import compare, present

    sizes = numbers(args.vocab, "--vocab", int, VOCABULARIES)
    rows = chosen_names(args.rows, ROWS, "kind of rows")
    cells = [
        LossCell(vocab, kind, args.batch, args.tokens, args.rank, args.checkpointing)
        for vocab in sizes
        for kind in rows
    ]
    ways = present(chosen_names(args.ways, WAYS, "way"), named=bool(args.ways), device=args.device)
    result = begin_result("loss", args)
    device = torch.device(args.device)
    result["cells"] = [
        compare(cell, ways, device, args.rounds, args.model, args.quick, args.memory and cell.rows == "all")
        for cell in cells
    ]
    result["goals"] = goals(result["cells"])
    return result


def goals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare what was measured of ours with the goals; empty for small vocabularies, and without PEFT."""
    found = []
    for row in rows:
        cell, ways = LossCell(**row["cell"]), row["ways"]
        meant = cell.vocab >= LEAST_VOCABULARY and "peft" in ways
        for name in (name for name in OURS if name in ways and meant):
            speed = {"what": "tokens/s", "value": ways[name]["faster"]["median"]}
            speed["least"] = FASTER if cell.rows == "alpaca" else NEVER_SLOWER
            found.append({"cell": cell.title(), "way": name, **speed, "met": speed["value"] >= speed["least"]})
            if "memory" in ways[name]:
                part = ways[name]["memory"] / ways["peft"]["memory"]
                goal = {"what": "peak memory", "value": part, "most": MEMORY, "met": part <= MEMORY}
                found.append({"cell": cell.title(), "way": name, **goal})
    return found


def markdown(result: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    measured = {name for row in result["cells"] for name in row["ways"]}
    about = "\n".join(f"- `{name}`: {text}" for name, text in WAYS.items() if name in measured)
    left_out = ", ".join(name for name in WAYS if name not in measured)
    parts = [opening(result), "Step: forward and backward pass, median over rounds.", about]
    if left_out:
        parts.append(f"Not measured, as it is not installed or needs a GPU: {left_out}.")
    for row in result["cells"]:
        title, load = LossCell(**row["cell"]).title(), load_sentence(row["others_percent"])
        parts.append(f"## {title}\n\n{load}\n\n{cell_table(row)}")
    parts.append(
        "## Goals\n\n"
        + ("\n".join(_goal(goal) for goal in result["goals"]) or "They are about PEFT and large vocabularies.")
    )
    return "\n\n".join(parts) + "\n"


def cell_table(cell: dict[str, Any]) -> str:
    """Return what was measured of one configuration as a Markdown table."""
    headers = ("way", "step ms (quartiles)", "tokens/s", "of PEFT's tokens/s", "peak memory", "first loss")
    return report.table(headers, [_line(name, row) for name, row in cell["ways"].items()])


def _line(name: str, row: dict[str, Any]) -> tuple[Any, ...]:
    speed = f"{row['tokens_per_second']:,.0f}"
    faster, peak = report.times(row["faster"]), report.memory(row.get("memory"))
    return (name, report.milliseconds(row["step"]), speed, faster, peak, f"{row['loss']:.5f}")


def _goal(goal: dict[str, Any]) -> str:
    bound = f"at least {goal['least']}x" if "least" in goal else f"at most {goal['most']}x"
    return (
        f"- {'met' if goal['met'] else 'MISSED'}: {goal['way']}, {goal['cell']}: {goal['value']:.2f}x of PEFT's "
        f"{goal['what']} ({bound})"
    )


def main() -> None:
    """Measure, print, and with --save write JSON and Markdown."""
    measure_and_report(arguments(), measure, markdown)


if __name__ == "__main__":
    run_main(main)
