"""The order in which rows are trained on: the same for one process and for several, and for a run that resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from sharelora.data.token_rows import IGNORED

Epoch = Callable[[], int]  # returns the current epoch, when an epoch begins


class LengthGrouped(Sampler[int]):
    """Examples of similar length together, in an order that depends on the seed and the epoch alone.

    The Trainer's own sampler draws from the global generator: a run that resumes would continue in another order, and
    processes would disagree once their generators do.

    Args:
        lengths: tokens of each example.
        batch: examples per update, all processes together.
        seed: data_seed.
        epoch: returns the current epoch.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int, epoch: Epoch) -> None:
        self.lengths = list(lengths)
        self.batch = batch
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        # Multiplied, so that epoch 1 of one seed is not epoch 0 of the next.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch())
        return iter(get_length_grouped_indices(self.lengths, self.batch, generator=generator))


class Shuffled(Sampler[int]):
    """The order that accelerate's sampler gives a single process, without that sampler's state.

    Args:
        count: rows.
        seed: data_seed.
        epoch: returns the current epoch.
    """

    def __init__(self, count: int, seed: int, epoch: Epoch) -> None:
        self.count, self.seed, self.epoch = count, seed, epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch())
        yield from torch.randperm(self.count, generator=generator).tolist()


class Padded(Sampler[int]):
    """An order, padded with the blank row of `WithBlank` until every process has whole batches.

    accelerate would pad with rows from the beginning, which then count twice in the last update of an epoch.

    Args:
        order: indices of rows.
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


class WithBlank(Dataset[dict[str, Any]]):
    """Rows, and after the last one a blank one: the first row with labels that do not count.

    Args:
        rows: the training rows; each has `labels`.
    """

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index < len(self.rows):
            row: dict[str, Any] = self.rows[index]
            return row
        first = self.rows[0]
        labels = first["labels"]
        blank = torch.nan if labels.is_floating_point() else IGNORED
        return {**first, "labels": torch.full_like(labels, blank)}


def counted(labels: Tensor) -> Tensor:
    """Return which labels count: those of blank rows do not."""
    return ~labels.isnan() if labels.is_floating_point() else labels != IGNORED


def training_order(
    args: TrainingArguments, rows: Any, lengths: Sequence[int] | None, epoch: Epoch
) -> Sampler[int] | None:
    """Return the order of an epoch, the same for any number of processes that take the same rows per update.

    Args:
        args: of the Trainer: seed, sampling strategy and batches.
        rows: the training rows.
        lengths: tokens of each row, to group by.
        epoch: returns the current epoch.

    Returns:
        The order; None where the Trainer's own will do.
    """
    seed = args.seed if args.data_seed is None else args.data_seed
    if args.train_sampling_strategy == "group_by_length" and lengths is not None:
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return LengthGrouped(lengths, batch, seed, epoch)
    if args.train_sampling_strategy == "random" and args.world_size > 1:
        return Shuffled(len(rows), seed, epoch)
    return None
