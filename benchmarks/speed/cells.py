"""The configurations that are measured: a stack of LLaMA layers, a RoBERTa classifier, a GPT-2, and their inputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

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


def _check_sizes(hidden: int, **others: int) -> None:
    """Refuse sizes that make no model: an attention head has 64 of the hidden size."""
    if hidden < 64 or hidden % 64 or min(others.values()) < 1:
        found = ", ".join(f"{name} {value}" for name, value in {"hidden": hidden, **others}.items())
        raise UserError(f"found {found}; need a hidden size that 64 divides, and at least 1 of the others")


def _check_dropout(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise UserError(f"found --dropout {dropout:g}; need a probability of at least 0 and below 1")


@dataclass(frozen=True)
class StackCell:
    """A stack of LLaMA's decoder layers with all seven linear maps adapted, and one row of tokens.

    Raises:
        UserError: a size that makes no model, an unknown precision, or a dropout that is no probability below 1.
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

    def data(self) -> dict[str, Any]:
        """Return the fields as JSON data."""
        return asdict(self)


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
class EncoderCell:
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

    def data(self) -> dict[str, Any]:
        """Return the fields as JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class DecoderCell:
    """A GPT-2 with query and value adapted, and a batch of rows.

    Raises:
        UserError: a size that makes no model, or a dropout that is no probability below 1.
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
            raise UserError(f"found tokens {self.tokens}; need at least 2 tokens, of which half are predicted")
        _check_dropout(self.dropout)

    def title(self) -> str:
        """Describe it for a table."""
        return (
            f"hidden {self.hidden}, {self.layers} layers, vocabulary {self.vocab:,}, rank {self.rank}, dropout "
            f"{self.dropout:g}, {self.batch} x {self.tokens} tokens"
        )

    def data(self) -> dict[str, Any]:
        """Return the fields as JSON data."""
        return asdict(self)
