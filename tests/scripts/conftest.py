"""Fixtures for the shell scripts."""

from __future__ import annotations

from pathlib import Path

import pytest
from script_commands import SCRIPTS, Command, resolve


@pytest.fixture(autouse=True)
def outside_settings_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that this process was started with changes what a parser reads."""
    for name in ("SHARELORA_TINY", "SHARELORA_DATA", "PT_OUTPUT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def scripts() -> Path:
    """The folder of scripts."""
    return SCRIPTS


@pytest.fixture
def command() -> Command:
    """The words of the command that a script would run: command("share/x.sh", "--tiny", MODEL="m")."""
    return resolve


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for tiny models, which `hardly_trained` ones are put into."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def hardly_trained(tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let --tiny make a model within seconds: these tests are about scripts, not about what a model learns."""
    monkeypatch.setenv("SHARELORA_CACHE", str(tiny_cache))
    monkeypatch.setenv("SHARELORA_TINY_STEPS", "2")
