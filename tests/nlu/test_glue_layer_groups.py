"""Encoders whose groups of layers are measured by the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_encoders import Run

from sharelora.layer_groups import read_similarity
from sharelora.support.errors import UserError

AUTO = "--share ab --share_layers auto --similarity_threshold -1 --num_train_epochs 1 --max_train_samples 40".split()


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """Rows with a sentence each."""
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"sentence": "the cat likes a dog " * n}) + "\n" for n in range(1, 6)))
    return path


def test_an_encoder_is_measured_without_its_head(job: Run, sample: Path, tmp_path: Path) -> None:
    job(*AUTO, "--similarity_sample", sample)
    found = read_similarity(tmp_path / "out" / "similarity.json")
    assert found.layers == 2 and found.texts == 5
    plan = json.loads((tmp_path / "out" / "result.json").read_text())["plan"]
    assert plan["trainable"] == plan["unshared"] / 2 and "1 group" in plan["share"]


def test_groups_go_with_a_low_rank_method_alone(job: Run, sample: Path) -> None:
    with pytest.raises(UserError, match="found --similarity_threshold with the method bitfit, which has no low-rank"):
        job("--method", "bitfit", "--similarity_threshold", "0.5")
    with pytest.raises(UserError, match="found --share_groups with the method full"):
        job("--method", "full", "--share_layers", "auto", "--similarity_sample", sample)
    with pytest.raises(UserError, match="need texts to compare layers on"):
        job(*AUTO)
