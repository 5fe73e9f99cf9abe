"""Advice where memory does not suffice: the cheapest changes, with what each is estimated to save."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sharelora.support.text import size

# A change that saves a smaller part hardly helps, however cheap it is; it is named only where nothing better is left.
_WORTHWHILE = 0.05


@dataclass(frozen=True)
class FlagNames:
    """Names, without dashes, of a command's flags that decide about memory.

    Attributes:
        batch: rows per forward pass.
        accumulation: forward passes per update.
        rows: flags whose values add up to the tokens of a row.
        bits: whether the command can choose the precision of the base.
    """

    batch: str
    accumulation: str
    rows: tuple[str, ...]
    bits: bool = True

    def general(self) -> str:
        """Return all that can be changed in words, for a run whose need was not estimated."""
        quantised = ", or use --bits 4" if self.bits else ""
        return (
            f"lower --{self.batch} (and raise --{self.accumulation}), --per_device_eval_batch_size or "
            f"{' and '.join(f'--{name}' for name in self.rows)}, add --gradient_checkpointing{quantised}"
        )


@dataclass(frozen=True)
class Change:
    """Flags that lower the need for memory.

    Attributes:
        flags: as they are typed after the command.
        price: what they cost.
        need: bytes that a run needs with them.
    """

    flags: str
    price: str
    need: int


class Need(Protocol):
    """A function that returns the bytes that a run would need with other settings."""

    def __call__(self, lora: Mapping[str, Any] | None = None, **settings: Any) -> int:
        """Estimate again.

        Args:
            lora: settings of the adapter that differ, `r` or `share`.
            settings: arguments of `sharelora.memory.estimator.estimate` that differ.
        """


def changes(
    settings: Mapping[str, Any],
    accumulation: int,
    rows: Mapping[str, int],
    names: FlagNames,
    need: Need,
    rank: int | None,
    shares: bool,
) -> list[Change]:
    """Return what could be changed, in the order of its price: first what leaves the result as it is.

    Args:
        settings: arguments of `estimate`, with `batch`, `tokens`, `bits`, `dtype`, `checkpointing`.
        accumulation: forward passes per update.
        rows: values of the flags whose sum is the tokens of a row.
        names: of the flags.
        need: estimates again.
        rank: of the adapter; None if a hand-written plan says it for every layer.
        shares: whether the adapter shares already.
    """
    return [
        *_same_result(settings, accumulation, names, need),
        *(_other_precision(settings, need) if names.bits else ()),
        *_less_learned(settings["tokens"], rows, need, rank, shares),
    ]


def _same_result(settings: Mapping[str, Any], accumulation: int, names: FlagNames, need: Need) -> Iterator[Change]:
    batch = settings["batch"]
    if batch > 1:
        # The largest part into which the batch can be cut: as many rows per update as before.
        part = max(divisor for divisor in range(1, batch) if batch % divisor == 0)
        words = f"--{names.batch} {part} --{names.accumulation} {accumulation * batch // part}"
        yield Change(words, "the same updates", need(batch=part))
    if not settings["checkpointing"]:
        yield Change("--gradient_checkpointing true", "a third more time", need(checkpointing=True))


def _other_precision(settings: Mapping[str, Any], need: Need) -> Iterator[Change]:
    bits, dtype = settings["bits"], settings["dtype"]
    if bits < 16 and dtype == "fp32":
        yield Change("--bf16 true", "computes in 16 bits", need(dtype="bf16"))
    if bits == 32:
        yield Change("--bits 16", "a base of 16 bits", need(bits=16, dtype="bf16"))
    if bits > 4:
        yield Change("--bits 4 --bf16 true", "a base of 4 bits", need(bits=4, dtype="bf16"))


def _less_learned(tokens: int, rows: Mapping[str, int], need: Need, rank: int | None, shares: bool) -> Iterator[Change]:
    if rank is not None and rank > 1:
        yield Change(f"--lora_r {rank // 2}", "half the rank", need(lora={"r": rank // 2}))
    if not shares:
        yield Change("--share a", "one A for all layers", need(lora={"share": "a"}))
    halves = {name: length // 2 for name, length in rows.items()}
    if all(halves.values()):
        words = " ".join(f"--{name} {half}" for name, half in halves.items())
        yield Change(words, "longer rows are cut off", need(tokens=ceil_half(tokens)))


def ceil_half(count: int) -> int:
    """Return half of a count, rounded up."""
    return -(-count // 2)


def cheapest(need: int, changes: Sequence[Change], count: int = 3) -> list[Change]:
    """Choose the cheapest changes that save something worth while; after those, the ones that save most.

    Args:
        need: bytes that are needed now, of what the settings decide about.
        changes: in the order of their price.
        count: how many to return at most.
    """
    saving = [change for change in changes if change.need < need]
    worth = [change for change in saving if need - change.need >= _WORTHWHILE * need]
    rest = sorted((change for change in saving if change not in worth), key=lambda change: change.need)
    return [*worth, *rest][:count]


def advice(need: int, changes: Sequence[Change]) -> str:
    """Return the cheapest changes in words, with what each saves; empty if none saves anything."""
    chosen = cheapest(need, changes)
    return ", or ".join(f"{change.flags} (saves {size(need - change.need)}; {change.price})" for change in chosen)
