"""Fixtures of the data tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_data import byte_tokenizer


@pytest.fixture(autouse=True)
def data_folder_of_the_machine_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that wants a folder of data names one; otherwise the hub would never be asked."""
    monkeypatch.delenv("SHARELORA_DATA", raising=False)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return byte_tokenizer()


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as JSON Lines under the test's folder."""

    def write(name: str, rows: list[dict[str, Any]]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
