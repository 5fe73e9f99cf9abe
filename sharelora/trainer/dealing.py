"""How the rows of an epoch are dealt to several processes, so that together they see what one process would."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler

from sharelora.data.token_rows import IGNORED
from sharelora.support.errors import UserError


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


# Processes that train together start from the same place and hold the same weights, bit by bit, or are stopped.


def digest(model: nn.Module) -> str:
    """Return a fingerprint of the weights that are trained, by name and bit by bit."""
    total = hashlib.sha256()
    for name, value in _trained(model):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _trained(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return sorted((name, value) for name, value in model.named_parameters() if value.requires_grad)


def require_agreement(digests: Sequence[str], step: int, last_good: Any) -> None:
    """Compare what all processes hold.

    Args:
        digests: of each process, by rank.
        step: updates so far.
        last_good: the last good checkpoint, or None.

    Raises:
        UserError: two differ; nothing more may be saved.
    """
    others = [rank for rank, found in enumerate(digests) if found != digests[0]]
    if others:
        raise UserError(
            f"after update {step} process {', '.join(map(str, others))} of {len(digests)} holds other weights than "
            f"process 0; need the same bit by bit; the last good checkpoint is {last_good or 'none'}; start again to "
            "go on from it, with the same machine, driver and packages for all processes"
        )


def require_same_start(found: Sequence[str | None]) -> None:
    """Compare the checkpoints that processes would go on from.

    Args:
        found: of each process, by rank; None for a new start.

    Raises:
        UserError: two differ, as where machines do not share a folder.
    """
    other = next((rank for rank, place in enumerate(found) if place != found[0]), None)
    if other is not None:
        raise UserError(
            f"process 0 goes on from {found[0] or 'nothing'} and process {other} from {found[other] or 'nothing'}; "
            "need an --output_dir that all machines share; see to that and start again"
        )
