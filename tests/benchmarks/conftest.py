"""Fixtures of the benchmarks' tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def environment_of_the_machine_again() -> Iterator[None]:
    """Put back what a benchmark's command sets for its own process, such as the folder of data."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
