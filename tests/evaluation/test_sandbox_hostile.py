"""Programs that attack the scorer: none passes, none does harm, none leaves anything running, and scoring goes on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hostile_programs import HOSTILE, TEST, Hostile
from sandboxes import SMALL, left_processes, require_isolation, skip_without_bubblewrap

from sharelora.sandbox import run_many, run_program

ROOT = Path(__file__).resolve().parents[2]
TEXT = "a canary\n"
RIGHT = "def square(x):\n    return x * x"


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Files that hostile programs would like to read and delete: in /tmp, in the repository, in the home folder."""
    skip_without_bubblewrap()
    # In the repository where git does not look: other tests ask whether anything has changed.
    cache = ROOT / ".pytest_cache"
    cache.mkdir(exist_ok=True)
    places = [tmp_path_factory.mktemp("canary"), cache, Path.home()]
    made = []
    for place in (place for place in places if os.access(place, os.W_OK)):
        with tempfile.NamedTemporaryFile("w", dir=place, prefix=".sharelora_canary_", delete=False) as file:
            file.write(TEXT)
        made.append(Path(file.name))
    try:
        for path in made:
            require_isolation(path)
        yield made
    finally:
        for path in made:
            path.unlink(missing_ok=True)


def text_of(program: Hostile, canaries: list[Path]) -> str:
    """The program with the names that it uses."""
    values = (str(Path.home()), str(ROOT), [str(path) for path in canaries])
    return f"HOME, REPOSITORY, CANARIES = {values!r}\n{program.source}"


def unharmed(canaries: list[Path]) -> bool:
    """Whether nobody has touched the files, or left one beside them."""
    return all(path.read_text() == TEXT for path in canaries) and not (Path.home() / "x").exists()


PARAMETERS = [pytest.param(p, id=p.name, marks=[pytest.mark.slow] if p.slow else []) for p in HOSTILE]


@pytest.mark.parametrize("program", PARAMETERS)
def test_a_hostile_program_neither_passes_nor_harms(
    program: Hostile, canaries: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARELORA_CANARY", "secret")
    limits = replace(SMALL, seconds=2.5) if program.slow else SMALL
    found = run_program(text_of(program, canaries), TEST, limits)
    assert not found.passed and found.status in program.statuses.split(), found
    assert unharmed(canaries) and left_processes() == []
    assert "secret" not in found.detail and "\n" not in found.detail and len(found.detail) <= 300


def test_scoring_goes_on_among_hostile_programs(canaries: list[Path]) -> None:
    hostile = [text_of(program, canaries) for program in HOSTILE if not program.slow][::9]
    programs = [(text, TEST) for bad in hostile for text in (bad, RIGHT)]
    found = run_many(programs, SMALL, workers=2)
    assert [outcome.passed for outcome in found] == [False, True] * len(hostile)
    assert unharmed(canaries) and left_processes() == []


def test_there_are_many_and_each_is_of_its_own_kind() -> None:
    assert len(HOSTILE) > 100 and len({program.name for program in HOSTILE}) == len(HOSTILE)
    assert len({program.source for program in HOSTILE}) == len(HOSTILE)
