"""The estimate of memory against measured peaks as a document: a table, a verdict and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import report
from benchmarks.memory.memory_cell import PRECISIONS, SIZES, MemoryCell
from sharelora.memory.estimator import Estimate
from sharelora.reporting.document import opening
from sharelora.reporting.pictures import new_figure, save_figure
from sharelora.support.text import size

GOAL = 0.1


@dataclass(frozen=True)
class Pair:
    """One peak in bytes: measured, and estimated."""

    measured: int
    estimated: int

    @property
    def off(self) -> float:
        """By which part of the measurement the estimate is too high."""
        return self.estimated / self.measured - 1

    def cells(self) -> tuple[str, str, str]:
        """Return it for a table."""
        return size(self.measured), size(self.estimated), f"{100 * self.off:+.1f} %"


@dataclass(frozen=True)
class Row:
    """One setting.

    Attributes:
        cell: the setting.
        before: bytes that the process held before anything was loaded; 0 on a GPU.
        peaks: `training`, `evaluation`, and `loading` where the base is converted, beyond what was there before.
    """

    cell: MemoryCell
    before: int
    peaks: dict[str, Pair]

    @classmethod
    def of(cls, cell: MemoryCell, measured: dict[str, int], need: Estimate) -> Row:
        """Compare a measurement with an estimate, whose part for the interpreter and libraries is left out."""
        runtime = need.total - need.own
        estimated = {"training": need.step}
        estimated |= {item.name: item.bytes for item in (need.evaluation, need.loading) if item is not None}
        peaks = {name: Pair(measured[name], value - runtime) for name, value in estimated.items()}
        return cls(cell, measured["before"], peaks)

    @property
    def outside(self) -> bool:
        """Whether a peak misses the goal."""
        return any(abs(pair.off) > GOAL for pair in self.peaks.values())


PEAKS = ("training", "evaluation", "loading")


def table(rows: Sequence[Row]) -> str:
    """Return a line per setting, with measured and estimated peaks."""
    headers = ["base", "precision", "checkpointing", "share"]
    headers += [text for name in PEAKS for text in (f"{name}: measured", "estimated", "off")]
    return report.table(
        headers,
        [
            (
                row.cell.size,
                row.cell.precision,
                "yes" if row.cell.checkpointing else "no",
                row.cell.share,
                *(text for name in PEAKS for text in (row.peaks[name].cells() if name in row.peaks else ("", "", ""))),
            )
            for row in rows
        ],
    )


def verdict(rows: Sequence[Row]) -> str:
    """Say how many settings are within the goal, and name those that are not."""
    outside = [row for row in rows if row.outside]
    lines = [f"{len(rows) - len(outside)} of {len(rows)} settings are within {100 * GOAL:.0f} % in every peak."]
    for name in PEAKS:
        offs = [100 * row.peaks[name].off for row in rows if name in row.peaks]
        if offs:
            lines.append(f"{name.capitalize()}: {min(offs):+.1f} % to {max(offs):+.1f} %.")
    return " ".join(lines) + (f" Outside: {', '.join(row.cell.name for row in outside)}." if outside else "")


def compose(facts: dict[str, Any], rows: Sequence[Row]) -> str:
    """Return the document without notes."""
    first = rows[0].cell
    bases = "; ".join(
        f"{name}: {layers} layers of width {hidden}, {vocabulary:,} tokens"
        for name, (hidden, layers, vocabulary) in SIZES.items()
        if name in {row.cell.size for row in rows}
    )
    return "\n\n".join(
        (
            opening(facts),
            f"Bases in the proportions of LLaMA-7B with random weights ({bases}), stored in fp32 for fp32 and in bf16 "
            f"for {', '.join(list(PRECISIONS)[1:])}. Adapters of rank {first.rank} on all linear layers; batches of "
            f"{first.batch} rows of {first.tokens} tokens with some padding, accumulated; AdamW. Each setting is "
            "loaded, trained for two updates and evaluated by the main job's code, in its own process.",
            _method(facts, rows),
            verdict(rows),
            "![Measured against estimated](memory.svg)",
            table(rows),
        )
    )


def _method(facts: dict[str, Any], rows: Sequence[Row]) -> str:
    if facts["settings"]["device"] != "cpu":
        return "Measured: the peak of torch's allocator beyond what was allocated before."
    low, high = min(row.before for row in rows), max(row.before for row in rows)
    return (
        "Measured: the peak of the resident set (VmHWM, set back before) beyond what the process held after a warm-up "
        f"with two layers of the same base, {size(low)} to {size(high)}: what `runtime` stands for in the estimate, "
        "which is left out on both sides. `MALLOC_MMAP_THRESHOLD_` and `MALLOC_TRIM_THRESHOLD_` are 65536, so that the "
        "C library gives freed blocks back."
    )


def draw(rows: Sequence[Row], stem: Path) -> list[Path]:
    """Draw estimated over measured peaks of training, with the goal as a band, and return the files."""
    figure = new_figure(6.0, 5.2)
    axes = figure.subplots()
    ends = [
        0.7 * min(row.peaks["training"].measured for row in rows) / 1e6,
        1.4 * max(row.peaks["training"].measured for row in rows) / 1e6,
    ]
    axes.fill_between(ends, [0.9 * e for e in ends], [1.1 * e for e in ends], color="0.88", label="within 10 %")
    axes.plot(ends, ends, color="0.6", linewidth=0.8)
    for index, precision in enumerate(PRECISIONS):
        for checkpointing, marker in ((False, "o"), (True, "^")):
            chosen = [r for r in rows if (r.cell.precision, r.cell.checkpointing) == (precision, checkpointing)]
            if not chosen:
                continue
            axes.plot(
                [row.peaks["training"].measured / 1e6 for row in chosen],
                [row.peaks["training"].estimated / 1e6 for row in chosen],
                marker,
                color=f"C{index}",
                markersize=4,
                alpha=0.7,
                label=f"{precision}{', checkpointing' if checkpointing else ''}",
            )
    axes.set(
        xscale="log", yscale="log", xlabel="measured peak (MB)", ylabel="estimated peak (MB)", xlim=ends, ylim=ends
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    return save_figure(figure, stem)
