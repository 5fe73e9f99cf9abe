"""Killed at some of their file events, commands lose nothing; `kill_points.py` is the whole of it, with every event."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty import Worker
from kill_points import SCENES, Server, judge, make_inputs

POINTS = {True: 4, False: 6}  # of a trainer, and of another command


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("ckpt_chaos", reason="pip install ckpt-chaos, which judges this")
    place = tmp_path_factory.mktemp("kills")
    worker = Worker(place, *(f"{scene.job}.job" for scene in SCENES.values() if scene.trains), "sharelora.convert")
    yield Server(worker, make_inputs(place / "inputs"), place)
    worker.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_the_same_command_again_ends_well(server: Server, tmp_path: Path, name: str) -> None:
    rows = judge(name, server, tmp_path / "judged", POINTS[SCENES[name].trains])
    assert len(rows) >= 4 and all(row.crashed for row in rows)
    assert [row for row in rows if row.verdict != "PASS"] == []
