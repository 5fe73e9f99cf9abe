"""The Trainer's order of examples."""

from __future__ import annotations

import itertools

from sharelora.trainer.adapter import LengthGrouped

LENGTHS = [5 + (i * 37) % 60 for i in range(200)]


def order(seed: int, epoch: int) -> list[int]:
    return list(LengthGrouped(LENGTHS, 4, seed, lambda: epoch))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1) != order(2, 0)
    assert sorted(order(1, 0)) == list(range(200))


def test_batches_hold_similar_lengths() -> None:
    def spread(indices: list[int]) -> float:
        batches = (
            itertools.batched(indices, 4) if hasattr(itertools, "batched") else zip(*[iter(indices)] * 4, strict=True)
        )
        return sum(max(lengths) - min(lengths) for lengths in ([LENGTHS[i] for i in batch] for batch in batches))

    assert spread(order(1, 0)) < spread(list(range(200))) / 4


def test_the_epoch_is_asked_when_an_epoch_begins() -> None:
    epochs = iter((0, 1))
    sampler = LengthGrouped(LENGTHS, 4, 1, lambda: next(epochs))
    assert [list(sampler), list(sampler)] == [order(1, 0), order(1, 1)]
    assert len(sampler) == 200
