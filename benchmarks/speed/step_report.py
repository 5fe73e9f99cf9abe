"""What the three benchmarks of a training step have in common: flags, and the frame of the report."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.harness.command import add_measurement_flags, new_parser
from benchmarks.harness.load import load_sentence
from benchmarks.harness.report import table
from benchmarks.speed.cells import DecoderCell, EncoderCell, StackCell
from sharelora.reporting.document import opening
from sharelora.support.errors import UserError


def step_parser(doc: str | None, rank: int, variants: str, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the flags that all three have; sizes that differ are added by each.

    Args:
        doc: the command's docstring.
        rank: of the adapters, unless given.
        variants: which are measured unless given, for the help.
        rounds: that are measured unless given, for the help.
    """
    parser = new_parser(doc)
    add = parser.add_argument
    add("--rank", type=int, default=rank, help="rank of the adapters")
    add("--variants", help=f"comma-separated; {variants} unless given")
    add("--rounds", type=int, help=f"measured rounds ({rounds})")
    add("--device", default="cpu", help="cpu or cuda")
    add_measurement_flags(parser, "small sizes, few rounds")
    return parser


def numbers(text: str, flag: str, kind: Callable[[str], Any], example: str) -> list[Any]:
    """Return a comma-separated list of numbers.

    Args:
        text: the list.
        flag: that it was given to.
        kind: int or float.
        example: of a list, for the message.

    Raises:
        UserError: something else than numbers.
    """
    try:
        return [kind(value) for value in text.split(",")]
    except ValueError as error:
        raise UserError(f"found {flag} {text!r}, which is not a list of numbers; need e.g. {example}") from error


def step_report(
    result: dict[str, Any],
    cell_type: type[StackCell] | type[EncoderCell] | type[DecoderCell],
    about: str,
    headers: Sequence[str],
    line: Callable[[str, dict[str, Any]], tuple[Any, ...]],
) -> list[str]:
    """Return the parts of a report: opening, variants, and a table for each configuration.

    Args:
        result: of the measurement.
        cell_type: of its configurations.
        about: what a step is here.
        headers: of the tables.
        line: takes a variant's name and numbers and returns its row.
    """
    # It loads torch and PEFT, which a command that only prints its help does without.
    from benchmarks.speed.variants import VARIANTS

    measured = {name for row in result["cells"] for name in row["variants"]}
    variants = "\n".join(f"- `{name}`: {variant.about}" for name, variant in VARIANTS.items() if name in measured)
    rates = ", ".join(f"{name} {1000 * rate:.0f} GFLOP/s" for name, rate in result["matmul_tflops"].items())
    parts = [opening(result) + f"\n- product of two matrices of 1024 x 1024: {rates}", f"{about}\n\n{variants}"]
    for row in result["cells"]:
        lines = table(headers, [line(name, found) for name, found in row["variants"].items()])
        title, load = cell_type(**row["cell"]).title(), load_sentence(row["others_percent"])
        parts.append(f"## {title}\n\n{load}\n\n{lines}")
    return parts
