"""The runner behind every engine: the order of work, smaller and larger batches, results as they come."""

from __future__ import annotations

import pytest
import torch

from sharelora.evaluation.batching import FIRST_SIZE, BatchRunner, BatchSize
from sharelora.support.errors import UserError


def run(runner: BatchRunner[int, str], count: int, most: int) -> list[list[int]]:
    """Run prompts where no more than `most` fit into memory; returns all batches that were tried."""
    tried: list[list[int]] = []

    def step(batch: list[int]) -> None:
        tried.append(batch)
        if len(batch) > most:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")
        runner.add({key: str(key) for key in batch}, len(batch))

    runner.run(range(count), step)
    return tried


def test_the_longest_come_first_and_batches_grow_to_the_estimate() -> None:
    runner: BatchRunner[int, str] = BatchRunner(BatchSize("auto", 20), lambda key: key, 60)
    tried = run(runner, 60, 99)
    assert [key for batch in tried for key in batch] == list(range(59, -1, -1))
    assert [len(batch) for batch in tried] == [FIRST_SIZE, 16, 20, 16] and runner.largest == 20
    assert runner.results == {key: str(key) for key in range(60)} and runner.tokens == 60


def test_batches_are_halved_for_good_on_every_wording_of_memory_that_ran_out() -> None:
    runner: BatchRunner[int, str] = BatchRunner(BatchSize("auto", 64), lambda key: 1, 20)
    assert [len(batch) for batch in run(runner, 20, 3)] == [8, 4, *[2] * 10]
    with pytest.raises(UserError, match="memory ran out with a single prompt"):
        run(BatchRunner(BatchSize(4, 64), lambda key: 1, 20), 20, 0)


def test_a_batch_holds_prompts_of_similar_length() -> None:
    lengths = [100, 99, 90, 40, 39, 5]
    runner: BatchRunner[int, str] = BatchRunner(BatchSize(6, 6), lengths.__getitem__, 6, most_padding=20)
    assert run(runner, 6, 6) == [[0, 1, 2], [3, 4], [5]]


def test_results_that_came_before_memory_ran_out_stay_and_are_kept() -> None:
    kept: list[dict[int, str]] = []
    heard: list[tuple[int, int, int]] = []
    runner: BatchRunner[int, str] = BatchRunner(
        BatchSize(4, 4), lambda key: 1, 4, lambda *values: heard.append(values), kept.append
    )
    tried: list[list[int]] = []

    def step(batch: list[int]) -> None:
        tried.append(batch)
        runner.add({batch[0]: "early"}, 1)
        if len(batch) > 2:
            raise torch.OutOfMemoryError("too much")
        runner.add({key: "late" for key in batch[1:]}, 1)

    runner.run(range(4), step)
    assert tried == [[0, 1, 2, 3], [1, 2], [3]]
    assert kept[0] == {0: "early"} and runner.results == {0: "early", 1: "early", 2: "late", 3: "early"}
    assert heard[-1] == (4, 4, 5) and [done for done, _, _ in heard] == sorted(done for done, _, _ in heard)


def test_other_errors_are_not_hidden() -> None:
    def step(batch: list[int]) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        BatchRunner[int, str](BatchSize(2, 2), lambda key: 1, 2).run(range(2), step)
