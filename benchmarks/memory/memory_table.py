"""`sharelora estimate` against the memory that loading and training really take.

    python benchmarks/memory/memory_table.py                 the whole grid: about half an hour of one core
    python benchmarks/memory/memory_table.py --save          the same, into docs/results/memory.md with its picture
    python benchmarks/memory/memory_table.py --sizes 5M      a part of it

Every setting is measured in its own process: a base with random weights is loaded and trained for two updates by
the code of the main job. A setting that was measured before is not measured again (--output). On a CPU the peak is that
of the resident set beyond what the process held before; on a GPU that of torch's allocator.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.harness.command import chosen_names, new_parser
from benchmarks.harness.report import DOCUMENTS, facts
from sharelora.reporting.document import write_document
from sharelora.support.errors import UserError, run_main
from sharelora.support.files import require_writable, write_json
from sharelora.support.reading import read_json

# What the C library keeps of freed blocks depends on the history of a process and can be used again; with fixed
# thresholds it gives them back, and the resident set is what the tensors take.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    parser.add_argument("--sizes", default="5M,20M,60M,200M,69M,137M", help="of the bases, comma-separated")
    parser.add_argument("--precisions", default="fp32,bf16,8-bit,4-bit", help="comma-separated")
    parser.add_argument("--share", default="none,a,b,ab", help="comma-separated; none is plain LoRA")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--output", type=Path, default=Path("runs/memory"), help="folder of what has been measured")
    parser.add_argument("--bases", type=Path, help="keep the bases in this folder; a temporary one unless given")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no new setting after this time")
    parser.add_argument("--save", nargs="?", const="", metavar="DIR", help="write memory.md, to docs/results or DIR")
    return parser.parse_args(argv)


def grid(args: argparse.Namespace) -> list[Any]:
    """Return the settings that the command line asks for, the small ones first.

    Raises:
        UserError: an unknown size, precision or way of sharing.
    """
    from benchmarks.memory.memory_cell import PRECISIONS, SIZES, MemoryCell

    sizes = chosen_names(args.sizes, SIZES, "size")
    precisions = chosen_names(args.precisions, PRECISIONS, "precision")
    shares = chosen_names(args.share, ("none", "a", "b", "ab"), "sharing")
    return [MemoryCell(*setting) for setting in product(sizes, precisions, (False, True), shares)]


def processes(environment: Mapping[str, str]) -> ProcessPoolExecutor:
    """Return a pool in which every task has a fresh process, forked from one that has only imported the libraries."""
    # The C library reads it when the first process starts.
    os.environ.update(environment)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.memory.memory_cell"])
    return ProcessPoolExecutor(1, context, max_tasks_per_child=1)


def measured(args: argparse.Namespace, bases: Path) -> Iterator[tuple[Any, dict[str, int]]]:
    """Yield every setting with its measurement, from now or before; those that would begin too late are left out.

    Raises:
        UserError: measuring one failed; those before it are kept.
    """
    from benchmarks.memory.memory_cell import answer, warm_up, write_base

    began, cells = time.monotonic(), grid(args)
    with processes(GIVE_BACK if args.device == "cpu" else {}) as pool:
        for number, cell in enumerate(cells, 1):
            file = args.output / args.device / f"{cell.name}.json"
            if not file.is_file():
                if time.monotonic() - began > args.seconds:
                    print(f"{cell.name}: not measured, no time left", flush=True)
                    continue
                for needed in (cell, warm_up(cell)):
                    write_base(needed, bases)
                try:
                    write_json(file, pool.submit(answer, cell, bases, args.device).result())
                except Exception as error:
                    raise UserError(
                        f"measuring {cell.name} failed: {type(error).__name__}: {error}; leave it out with --sizes"
                    ) from error
                print(f"[{number}/{len(cells)}] {cell.name}", flush=True)
            yield cell, read_json(file)


def main() -> None:
    """Measure, print, and with --save write the document."""
    args = arguments()
    from benchmarks.memory.memory_cell import foreseen
    from benchmarks.memory.memory_document import Row, compose, draw

    with tempfile.TemporaryDirectory() as folder:
        bases = args.bases or Path(folder)
        rows = [Row.of(cell, peaks, foreseen(cell, args.device).need) for cell, peaks in measured(args, bases)]
    if not rows:
        raise UserError(f"found no measured setting in {args.output}; need at least one; give more --seconds")
    text = compose(facts("The estimate of memory against what is measured", {"device": args.device}), rows)
    if args.save is not None:
        document = require_writable(Path(args.save or DOCUMENTS)) / "memory.md"
        write_document(document, text)
        draw(rows, document.with_suffix(""))
        print(f"wrote {document} and its picture")
    print(text)


if __name__ == "__main__":
    run_main(main)
