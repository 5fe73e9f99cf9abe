"""The order of rows: every update has the same for any number of processes, and blank ones count nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from torch.utils.data import BatchSampler, SequentialSampler

from sharelora.data.token_rows import IGNORED
from sharelora.trainer.exact_state import derive_random_state
from sharelora.trainer.samplers import LengthGrouped, Padded, Shuffled, WithBlank, counted


def updates(count: int, processes: int, batch: int, accumulation: int) -> list[list[int]]:
    """The rows of each update of an epoch, all processes together, as accelerate deals them."""
    order = Padded(SequentialSampler(range(count)), batch * processes)
    shards = [
        list(BatchSamplerShard(BatchSampler(order, batch, drop_last=False), processes, rank, even_batches=True))
        for rank in range(processes)
    ]
    assert len({len(shard) for shard in shards}) == 1
    found = []
    for start in range(0, len(shards[0]), accumulation):
        parts = [batch for shard in shards for batch in shard[start : start + accumulation]]
        found.append(sorted(row for part in parts for row in part if row < count))
    return found


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 15, 16, 17, 33])
@pytest.mark.parametrize(("processes", "batch", "accumulation"), [(2, 4, 1), (2, 2, 2), (4, 1, 2), (8, 1, 1)])
def test_every_update_has_the_rows_that_one_process_takes(
    count: int, processes: int, batch: int, accumulation: int
) -> None:
    alone = [list(range(start, min(count, start + 8))) for start in range(0, count, 8)]
    assert len(alone) == math.ceil(count / 8)
    assert updates(count, processes, batch, accumulation) == alone


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_the_order_is_that_of_one_process(epoch: int) -> None:
    """Whose sampler accelerate replaces by its own."""
    theirs = SeedableRandomSampler(range(20), data_seed=42)
    theirs.set_epoch(epoch)
    assert list(Shuffled(20, 42, lambda: epoch)) == list(theirs)


class Rows:
    """Rows with given labels."""

    def __init__(self, labels: Sequence[Any]) -> None:
        self.labels = [torch.tensor(value) for value in labels]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": torch.arange(3) + index, "labels": self.labels[index]}


@pytest.mark.parametrize("labels", [[[1, 2, IGNORED], [4, 5, 6]], [3, 4], [2.5, 0.0]])
def test_a_blank_row_counts_nothing(labels: list[Any]) -> None:
    rows = WithBlank(Rows(labels))
    assert len(rows) == 2
    assert torch.equal(rows[1]["labels"], torch.tensor(labels[1]))
    blank = rows[2]
    assert torch.equal(blank["input_ids"], rows[0]["input_ids"]) and blank["labels"].shape == rows[0]["labels"].shape
    assert not counted(blank["labels"]).any() and counted(rows[1]["labels"]).all()


def test_each_process_has_random_numbers_of_its_own_that_can_be_had_again() -> None:
    def draw(*where: int) -> float:
        derive_random_state(*where)
        return float(torch.rand(()))

    places = [(0, 0, 1), (0, 0, 2), (0, 4, 1), (1, 0, 1)]
    assert len({draw(*place) for place in places}) == 4
    assert draw(0, 4, 1) == draw(0, 4, 1)


LENGTHS = [5 + (i * 37) % 60 for i in range(200)]


def grouped(seed: int, epoch: int) -> list[int]:
    return list(LengthGrouped(LENGTHS, 4, seed, lambda: epoch))


def test_the_order_by_length_depends_on_seed_and_epoch_alone() -> None:
    assert grouped(1, 0) == grouped(1, 0)
    assert grouped(1, 0) != grouped(1, 1) != grouped(2, 0)
    assert sorted(grouped(1, 0)) == list(range(200))


def test_batches_hold_similar_lengths() -> None:
    def spread(indices: list[int]) -> float:
        batches = (
            itertools.batched(indices, 4) if hasattr(itertools, "batched") else zip(*[iter(indices)] * 4, strict=True)
        )
        return sum(max(lengths) - min(lengths) for lengths in ([LENGTHS[i] for i in batch] for batch in batches))

    assert spread(grouped(1, 0)) < spread(list(range(200))) / 4


def test_the_epoch_is_asked_when_an_epoch_begins() -> None:
    epochs = iter((0, 1))
    sampler = LengthGrouped(LENGTHS, 4, 1, lambda: next(epochs))
    assert [list(sampler), list(sampler)] == [grouped(1, 0), grouped(1, 1)]
    assert len(sampler) == 200
