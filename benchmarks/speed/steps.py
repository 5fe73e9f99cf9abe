"""The benchmarks of a training step: what they measure (a LLaMA stack, a RoBERTa, a GPT-2, a loss), flags, report."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from benchmarks.harness.command import add_measurement_flags, new_parser
from benchmarks.harness.machine import load_sentence
from benchmarks.harness.report import table
from sharelora.reporting.document import opening
from sharelora.support.errors import UserError

# What --sweep varies, one at a time around the base configuration. Growth along each should be linear.
AXES: dict[str, tuple[int, ...]] = {
    "layers": (2, 4, 8),
    "rank": (8, 16, 32, 64),
    "tokens": (256, 512, 1024, 2048),
}
DTYPES = ("fp32", "bf16")
# Of encoders: fp32 as it is, and as the Trainer's `bf16=True` has it: fp32 weights, products in bf16.
PRECISIONS = {"fp32": False, "bf16_autocast": True}
# Tokens, and those of the answer among them, of the first eight rows of Alpaca's random sample in Gemma's tokenizer.
ALPACA = ((126, 82), (76, 11), (83, 11), (165, 119), (103, 63), (88, 17), (151, 96), (57, 2))
ROWS = ("alpaca", "all")


def _check_sizes(hidden: int, **others: int) -> None:
    """Refuse sizes that make no model: an attention head has 64 of the hidden size."""
    if hidden < 64 or hidden % 64 or min(others.values()) < 1:
        sizes = ", ".join(f"{name} {value}" for name, value in {"hidden": hidden, **others}.items())
        raise UserError(f"found {sizes}; need a hidden size that 64 divides, and at least 1 of the others")


def _check_dropout(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise UserError(f"found --dropout {dropout:g}; need a probability of at least 0 and below 1")


@dataclass(frozen=True)
class Cell(ABC):
    """One configuration."""

    @abstractmethod
    def title(self) -> str:
        """Describe it for a table."""

    def data(self) -> dict[str, Any]:
        """Return the fields as JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class StackCell(Cell):
    """A stack of LLaMA's decoder layers with all seven linear maps adapted, and one row of tokens.

    Raises:
        UserError: a size that makes no model, an unknown precision, or a dropout outside [0, 1).
    """

    hidden: int = 1024
    layers: int = 4
    rank: int = 16
    tokens: int = 1024
    dtype: str = "bf16"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_sizes(self.hidden, layers=self.layers, rank=self.rank, tokens=self.tokens)
        if self.dtype not in DTYPES:
            raise UserError(
                f"--dtype {self.dtype!r} is unknown; need some of {', '.join(DTYPES)}; separate with commas"
            )
        _check_dropout(self.dropout)

    def title(self) -> str:
        """Describe it for a table."""
        return (
            f"{self.dtype}, dropout {self.dropout:g}: hidden {self.hidden}, {self.layers} layers, rank {self.rank}, "
            f"{self.tokens} tokens"
        )


def base_cells(cell: StackCell, dtypes: Sequence[str], dropouts: Sequence[float]) -> list[StackCell]:
    """Return a configuration in every precision and with every dropout."""
    return [replace(cell, dtype=dtype, dropout=dropout) for dtype, dropout in product(dtypes, dropouts)]


def swept_cells(cells: Iterable[StackCell], axes: dict[str, tuple[int, ...]] = AXES) -> list[StackCell]:
    """Return what varies one number of each configuration at a time; the configurations themselves are left out."""
    bases = list(cells)
    varied = [
        StackCell(**{**cell.data(), axis: value}) for cell in bases for axis, values in axes.items() for value in values
    ]
    return [cell for cell in dict.fromkeys(varied) if cell not in bases]


@dataclass(frozen=True)
class EncoderCell(Cell):
    """A RoBERTa classifier with query and value adapted, its head, and a batch of sentences.

    Raises:
        UserError: a size that makes no model, or an unknown precision.
    """

    hidden: int = 768
    layers: int = 12
    rank: int = 8
    batch: int = 8
    tokens: int = 128
    precision: str = "fp32"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_sizes(self.hidden, layers=self.layers, rank=self.rank, batch=self.batch, tokens=self.tokens)
        if self.precision not in PRECISIONS:
            raise UserError(f"--precision {self.precision!r} is unknown; need some of {', '.join(PRECISIONS)}")

    def title(self) -> str:
        """Describe it for a table."""
        return (
            f"{self.precision}: hidden {self.hidden}, {self.layers} layers, rank {self.rank}, {self.batch} x "
            f"{self.tokens} tokens"
        )


@dataclass(frozen=True)
class DecoderCell(Cell):
    """A GPT-2 with query and value adapted, and a batch of rows.

    Raises:
        UserError: a size that makes no model, or a dropout outside [0, 1).
    """

    hidden: int = 768
    layers: int = 12
    rank: int = 4
    batch: int = 8
    tokens: int = 64
    vocab: int = 50257
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_sizes(self.hidden, layers=self.layers, rank=self.rank, batch=self.batch, vocab=self.vocab)
        if self.tokens < 2:
            raise UserError(f"found tokens {self.tokens}; need at least 2 tokens, as half are predicted")
        _check_dropout(self.dropout)

    def title(self) -> str:
        """Describe it for a table."""
        return (
            f"hidden {self.hidden}, {self.layers} layers, vocabulary {self.vocab:,}, rank {self.rank}, dropout "
            f"{self.dropout:g}, {self.batch} x {self.tokens} tokens"
        )


@dataclass(frozen=True)
class LossCell(Cell):
    """A vocabulary and a batch: `alpaca`, eight rows of that data set, or `all`, `batch` x `tokens` all targets.

    With `checkpointing` the activations inside a layer are computed again in the backward pass.
    """

    vocab: int
    rows: str
    batch: int
    tokens: int
    rank: int
    checkpointing: bool = False

    def __post_init__(self) -> None:
        if min(self.vocab, self.batch, self.tokens - 1, self.rank) < 1:
            raise UserError(f"found {self}; need at least 1 of all, and 2 tokens; give larger numbers")

    def title(self) -> str:
        """Describe it for a table."""
        total, answers = sum(row[0] for row in ALPACA), sum(row[1] for row in ALPACA)
        batch = f"{self.batch} x {self.tokens} tokens, all of them targets"
        if self.rows == "alpaca":
            batch = f"{len(ALPACA)} rows of Alpaca: {total} tokens, {answers} of them answer"
        again = ", gradient checkpointing" if self.checkpointing else ""
        return f"vocabulary {self.vocab:,}, {batch}{again}"


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
        flag: whose value it is.
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
    cell_type: Callable[..., Cell],
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
        lines = table(headers, [line(name, numbers) for name, numbers in row["variants"].items()])
        title, load = cell_type(**row["cell"]).title(), load_sentence(row["others_percent"])
        parts.append(f"## {title}\n\n{load}\n\n{lines}")
    return parts
