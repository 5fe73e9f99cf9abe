"""Small encoders, small tasks, and the job run in this process."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "training"))
from small_encoders import Run, write_encoder, write_glue

from sharelora.training import runner
from sharelora.training.glue.job import GlueSession, parse, run


@pytest.fixture(scope="session", autouse=True)
def imported_modules_set_aside() -> Iterator[None]:
    """Every run of the Trainer collects garbage, mostly among what was imported; these tests are a hundred runs."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random RoBERTa of two layers with its tokenizer."""
    return write_encoder(tmp_path_factory.mktemp("roberta"))


@pytest.fixture(scope="session")
def glue_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CoLA, MNLI, MRPC, RTE, SST-2 and STS-B with a few rows each."""
    return write_glue(tmp_path_factory.mktemp("data"))


@pytest.fixture
def words(encoder: Path, glue_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command line of a short run into `tmp_path/out`; flags put behind it win."""
    monkeypatch.setenv("SHARELORA_DATA", str(glue_root))
    monkeypatch.setattr("sharelora.reporting.history._plot", lambda rows: b"no plot in this test")
    text = (
        f"--model_name_or_path {encoder} --task_name cola --output_dir {tmp_path}/out --use_cpu --num_train_epochs 2"
        " --per_device_train_batch_size 16 --per_device_eval_batch_size 32 --learning_rate 1e-2 --max_seq_length 32"
        " --held_out 20 --seed 1"
    )
    return text.split()


@pytest.fixture
def job(words: list[str]) -> Run:
    """Run the job with more flags; returns its metrics. The plot, tested by itself, is not drawn."""

    def go(*more: object) -> dict[str, Any]:
        session = run(parse([*words, *map(str, more)]))
        return {} if session is None else session.metrics

    return go


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[GlueSession]:
    """The sessions of the jobs that the test has run, with their models as they were left."""
    found: list[GlueSession] = []

    own = runner.open_session

    def remember(*args: Any) -> GlueSession:
        found.append(own(*args))
        return found[-1]

    monkeypatch.setattr(runner, "open_session", remember)
    return found
