"""The comparison of the estimate with measured memory: its settings, its document, and a few of its cells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.memory import memory_cell, memory_document, memory_table
from benchmarks.memory.memory_cell import PRECISIONS, SIZES, MemoryCell, foreseen, warm_up
from benchmarks.memory.memory_document import Pair, Row
from sharelora import UserError

MB = 10**6
CELL = MemoryCell("5M", "4-bit", True, "a")


def row(training: float, evaluation: float = 1.0, cell: MemoryCell = CELL) -> Row:
    """A setting whose estimate is so many times what was measured."""
    peaks = {"training": Pair(100 * MB, int(training * 100 * MB)), "evaluation": Pair(MB, int(evaluation * MB))}
    return Row(cell, 500 * MB, peaks)


@pytest.mark.parametrize(
    ("name", "millions"), [("5M", 5), ("20M", 20), ("60M", 60), ("200M", 200), ("69M", 69), ("137M", 137)]
)
def test_the_bases_have_the_sizes_that_they_are_called(name: str, millions: int) -> None:
    import torch

    with torch.device("meta"):
        model = LlamaForCausalLM(MemoryCell(name, "fp32", False, "none").config())
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(millions * MB, rel=0.1)


def test_the_grid_is_every_combination_and_unknown_names_are_refused() -> None:
    cells = memory_table.grid(memory_table.arguments([]))
    assert len(cells) == len(SIZES) * len(PRECISIONS) * 2 * 4 == len({cell.name for cell in cells})
    assert [cell.share for cell in memory_table.grid(memory_table.arguments(["--share", "a"]))][:2] == ["a", "a"]
    with pytest.raises(UserError, match="found the unknown size '7B'; need some of 5M"):
        memory_table.grid(memory_table.arguments(["--sizes", "7B"]))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_cell_is_foreseen_as_the_job_would(precision: str) -> None:
    cell = MemoryCell("5M", precision, False, "ab")
    need = foreseen(cell, "cpu").need
    items = {item.name: item for item in need.items}
    assert precision.replace("fp32", "32-bit").replace("bf16", "16-bit") in items["base"].note
    assert "2 x 512 tokens, all layers" in items["activations"].note and "(ab)" not in items
    assert (need.loading is None) == (precision in ("fp32", "bf16")) and need.evaluation is not None
    assert warm_up(cell).config().num_hidden_layers == 2 and warm_up(cell).base != cell.base


def test_a_measurement_is_compared_without_the_runtime() -> None:
    need = foreseen(CELL, "cpu").need
    found = {"before": 500 * MB, "loading": 20 * MB, "training": 100 * MB, "evaluation": 50 * MB}
    made = Row.of(CELL, found, need)
    runtime = next(item.bytes for item in need.items if item.name == "runtime")
    assert made.peaks["training"] == Pair(100 * MB, need.step - runtime)
    assert need.loading is not None and made.peaks["loading"].estimated == need.loading.bytes - runtime


def test_what_misses_the_goal_is_named() -> None:
    other = MemoryCell("20M", "bf16", False, "none")
    text = memory_document.verdict([row(1.09), row(0.91), row(1.0, 1.2, other)])
    assert text.startswith("2 of 3 settings are within 10 % in every peak. Training: -9.0 % to +9.0 %.")
    assert text.endswith("Outside: 20M-bf16-all-none.") and "Outside" not in memory_document.verdict([row(1.0)])


def test_the_document_has_every_setting_and_a_picture(tmp_path: Path) -> None:
    facts: dict[str, Any] = {
        "kind": "x", "date": "2026-01-01T00:00", "command": "c", "git": None, "versions": {},
        "machine": {"gpu": [], "cpu": "c", "cores": 1, "instructions": [], "ram": MB}, "settings": {"device": "cpu"},
    }  # fmt: skip
    text = memory_document.compose(facts, [row(1.09)])
    assert "| 5M   | 4-bit     | yes           | a     | 100 MB             | 109 MB    | +9.0 % |" in text
    assert "5M: 4 layers of width 256" in text and "200M" not in text and "500 MB to 500 MB" in text
    assert [file.suffix for file in memory_document.draw([row(1.09)], tmp_path / "memory")] == [".svg", ".png"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_few_cells_are_within_a_tenth(root: Path, tmp_path: Path) -> None:
    flags = [
        "--sizes",
        "5M",
        "--precisions",
        "fp32,4-bit",
        "--share",
        "a",
        "--output",
        str(tmp_path),
        "--save",
        str(tmp_path),
    ]
    done = subprocess.run(
        [sys.executable, str(root / "benchmarks" / "memory" / "memory_table.py"), *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    )
    assert done.returncode == 0, done.stderr
    cells = memory_table.grid(memory_table.arguments(flags))
    rows = [
        Row.of(cell, json.loads((tmp_path / "cpu" / f"{cell.name}.json").read_text()), foreseen(cell, "cpu").need)
        for cell in cells
    ]
    assert len(rows) == 4 and [made.cell.name for made in rows if made.outside] == [], (
        tmp_path / "memory.md"
    ).read_text()


def test_the_proportions_are_those_of_a_llama() -> None:
    config = CELL.config()
    assert isinstance(config, LlamaConfig) and config.dtype == memory_cell.DTYPES["bf16"]
    assert config.intermediate_size / config.hidden_size == pytest.approx(11008 / 4096, rel=0.05)
