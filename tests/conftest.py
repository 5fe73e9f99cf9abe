"""Fixtures of every test: fixed seeds, no network, no GPU, and the optional folders of real data and models."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
# What is expected here was computed on CPUs, and commands take a GPU where they see one; benchmarks/gpu.sh is for GPUs.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import hypothesis
import pytest
import torch

# How long an example takes says how busy the machine is, not whether the code is right.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def root() -> Path:
    """The project's root folder."""
    return ROOT


def _beside(name: str) -> Path:
    folder = ROOT.parent / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: this test runs only beside real data")
    return folder


@pytest.fixture
def shared_data() -> Path:
    """A folder of real data sets beside the project; the test is skipped where there is none."""
    return _beside("data")


@pytest.fixture
def shared_models() -> Path:
    """A folder of really trained small models beside the project; the test is skipped where there is none."""
    return _beside("models")
