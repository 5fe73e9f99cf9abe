"""Parts of a task's rows: held out of train to choose an epoch by, or the first ones."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sharelora.data.readers import Row
from sharelora.errors import UserError


def hold_out(rows: Sequence[Row], amount: float, seed: int, stratify: bool) -> tuple[list[Row], list[Row]]:
    """Split rows in two, the same for the same seed, each part in its old order.

    Args:
        rows: training rows.
        amount: how many are held out: a fraction below 1, or a whole number; 0 for none.
        seed: of the choice.
        stratify: keep the share of each label, to within a row.

    Returns:
        The rows to train on and the rows that are held out.

    Raises:
        UserError: an amount out of range, or one that leaves nothing to train on.
    """
    count = _count(len(rows), amount)
    rng = random.Random(seed)
    groups = _by_label(rows) if stratify else [list(range(len(rows)))]
    sizes = _shares([len(group) for group in groups], count)
    held = {index for group, size in zip(groups, sizes, strict=True) for index in rng.sample(group, size)}
    kept = [row for index, row in enumerate(rows) if index not in held]
    return kept, [rows[index] for index in sorted(held)]


def _count(rows: int, amount: float) -> int:
    if amount < 0 or (amount >= 1 and amount != int(amount)):
        raise UserError(
            f"found held_out {amount:g}; need a fraction below 1 or a whole number of rows; change --held_out"
        )
    count = int(amount) if amount >= 1 else round(amount * rows)
    count = max(1, count) if amount else 0
    if count and count >= rows:
        raise UserError(
            f"found {rows} training rows and held_out {amount:g}, which leaves nothing to train on; need more rows; "
            "add rows or pass --held_out 0"
        )
    return count


def _by_label(rows: Sequence[Row]) -> list[list[int]]:
    """The indices of each label's rows, in the order of labels."""
    groups: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row["label"], []).append(index)
    return [groups[label] for label in sorted(groups)]


def _shares(sizes: Sequence[int], count: int) -> list[int]:
    """Divide a count in proportion to sizes: whole numbers, the largest remainders rounded up."""
    total = sum(sizes)
    shares = [count * size // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda index: -(count * sizes[index] % total))
    for index in by_remainder[: count - sum(shares)]:
        shares[index] += 1
    return shares


def take(rows: Sequence[Row], limit: int | None) -> list[Row]:
    """The first rows, as LoRA's script takes them.

    Args:
        rows: any rows.
        limit: how many at most; None for all.

    Raises:
        UserError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f"found a limit of {limit} rows; need at least 1; change the --max_..._samples flag")
    return list(rows[:limit])
