"""Training steps per second on RoBERTa-base shapes: adapters on query and value, ours and other libraries', and a head.

    python benchmarks/speed/glue_step.py                  12 layers of 768, r 8, 8 x 128 tokens; fp32 and bf16 autocast
    python benchmarks/speed/glue_step.py --save           and write the result into benchmarks/results
    python benchmarks/speed/glue_step.py --quick          seconds, to see that it works

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
from benchmarks.speed.steps import EncoderCell, step_parser, step_report
from sharelora.support.errors import run_main

FULL = {"hidden": 768, "layers": 12, "batch": 8, "tokens": 128, "rounds": 12}
# What is fast to measure, and small enough for any machine.
QUICK = {"hidden": 128, "layers": 2, "batch": 4, "tokens": 32, "rounds": 5}
VARIANTS = ("floor", "peft", "loralib", "none", "a", "ab")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; sizes that are not given are RoBERTa-base's, or small with --quick."""
    parser = step_parser(__doc__, rank=8, variants=",".join(VARIANTS), rounds=FULL["rounds"])
    add = parser.add_argument
    add("--hidden", type=int, help="hidden size, a multiple of 64 (768)")
    add("--layers", type=int, help="encoder layers (12)")
    add("--batch", type=int, help="sentences of a step (8)")
    add("--tokens", type=int, help="tokens of a sentence (128)")
    add("--precision", default="fp32,bf16_autocast", help="comma-separated: fp32, bf16_autocast")
    add("--dropout", type=float, default=0.0, help="dropout of the adapters; LoRA's scripts have none")
    args = parser.parse_args(argv)
    return fill(args, QUICK if args.quick else FULL)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that the command line asks for.

    Raises:
        UserError: a size that makes no model, an unknown variant or precision, or a busy machine with --save.
    """
    import torch

    from benchmarks.speed.encoders import compare
    from benchmarks.speed.stacks import matmul_rates
    from benchmarks.speed.variants import choose

    sizes = (args.hidden, args.layers, args.rank, args.batch, args.tokens)
    cells = [EncoderCell(*sizes, name.strip(), args.dropout) for name in args.precision.split(",")]
    names = choose(args.variants, "fp32", VARIANTS)
    result = begin_result("glue_step", args)
    result["cells"] = [compare(cell, names, args.rounds, torch.device(args.device)) for cell in cells]
    result["matmul_tflops"] = matmul_rates(args.device)
    return result


_HEADERS = ("variant", "step ms (quartiles)", "steps/s", "to floor", "faster than PEFT", "optimizer ms", "adapters")


def _line(name: str, row: dict[str, Any]) -> tuple[Any, ...]:
    whole = row["step"]["median"] + row["optimizer"]["median"]
    return (
        name,
        report.milliseconds(row["step"]),
        f"{1 / whole:.3g}",
        report.times(row["to_floor"]),
        report.times(row["speedup"]),
        report.milliseconds(row["optimizer"]),
        f"{row['adapters']:,}",
    )


def markdown(result: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    about = "Step: forward and backward pass, median over rounds; steps/s with the optimizer. The head trains too."
    return "\n\n".join(step_report(result, EncoderCell, about, _HEADERS, _line)) + "\n"


def main() -> None:
    """Measure, print, and with --save write JSON and Markdown."""
    measure_and_report(arguments(), measure, markdown)


if __name__ == "__main__":
    run_main(main)
