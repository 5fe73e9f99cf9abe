"""The official files beside the project: their rows are counted as their makers count them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from sharelora.data.glue import load_glue

pytestmark = pytest.mark.realdata

# Task -> rows, and rows of each label, of train and dev.
SIZES = {
    "cola": {"train": (8551, {1: 6023, 0: 2528}), "dev": (1043, {1: 721, 0: 322})},
    "mrpc": {"train": (3668, {1: 2474, 0: 1194}), "dev": (408, {1: 279, 0: 129})},
    "sst2": {"train": (67349, {0: 29780, 1: 37569}), "dev": (872, {1: 444, 0: 428})},
}
MEANS = {"train": (5749, 2.701), "dev": (1500, 2.364)}


@pytest.mark.parametrize("name", SIZES)
def test_rows_and_labels_are_all_there(name: str, shared_data: Path) -> None:
    found = load_glue(name, data_root=shared_data)
    counts = {split: (len(rows), dict(Counter(row["label"] for row in rows))) for split, rows in found.splits.items()}
    assert counts == SIZES[name]
    assert all(row[column].strip() for rows in found.splits.values() for row in rows for column in found.task.columns)


def test_scores_of_stsb(shared_data: Path) -> None:
    found = load_glue("stsb", data_root=shared_data)
    for split, (count, mean) in MEANS.items():
        scores = [row["label"] for row in found.rows(split)]
        assert len(scores) == count and min(scores) == 0.0 and max(scores) == 5.0
        assert sum(scores) / count == pytest.approx(mean, abs=5e-4)


def test_quotes_are_text(shared_data: Path) -> None:
    first = load_glue("mrpc", data_root=shared_data).rows("train")[0]
    assert first["sentence1"] == (
        'Amrozi accused his brother, whom he called "the witness", of deliberately distorting his evidence.'
    )
