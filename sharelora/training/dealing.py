"""How the rows of an epoch are dealt to several processes, so that together they see what one process would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from sharelora.data.rows import IGNORED


def counted(labels: Tensor) -> Tensor:
    """Return which labels count: those of blank rows do not."""
    return ~labels.isnan() if labels.is_floating_point() else labels != IGNORED


class WithBlank(Dataset[dict[str, Any]]):
    """Rows, and behind them a blank one: as the first row, with labels that do not count.

    Args:
        rows: the training rows; each has `labels`.
    """

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index < len(self.rows):
            item: dict[str, Any] = self.rows[index]
            return item
        item = self.rows[0]
        labels = item["labels"]
        nothing = torch.nan if labels.is_floating_point() else IGNORED
        return {**item, "labels": torch.full_like(labels, nothing)}


class Shuffled(Sampler[int]):
    """The order in which one process has an epoch's rows by accelerate's sampler, without its state.

    Args:
        count: rows.
        seed: data_seed.
        epoch: tells the current epoch when an epoch begins.
    """

    def __init__(self, count: int, seed: int, epoch: Callable[[], int]) -> None:
        self.count, self.seed, self.epoch = count, seed, epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch())
        yield from torch.randperm(self.count, generator=generator).tolist()


class Filled(Sampler[int]):
    """An order, filled up with blank rows until every process has whole batches.

    accelerate would fill up with rows from the beginning, which then count twice in the last update of an epoch.

    Args:
        order: places of rows.
        batch: rows of one batch of all processes together.
    """

    def __init__(self, order: Sampler[int], batch: int) -> None:
        self.order, self.batch = order, batch

    def __len__(self) -> int:
        count = len(self.order)  # type: ignore[arg-type]
        return count + -count % self.batch

    def __iter__(self) -> Iterator[int]:
        count = len(self.order)  # type: ignore[arg-type]
        yield from self.order
        yield from [count] * (-count % self.batch)
