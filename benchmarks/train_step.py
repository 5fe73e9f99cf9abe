"""Time and memory of one training step with LoRA and its shared forms, against the frozen base and other libraries.

    python benchmarks/train_step.py                     the configuration that the project's goal is about
    python benchmarks/train_step.py --sweep --save      with growth in layers, rank and tokens; into benchmarks/results
    python benchmarks/train_step.py --quick             a minute, to see that it works

All variants live in one process on the very same frozen weights and take turns; medians and quartiles are over rounds,
and ratios are formed within a round. Peak memory is that of a fresh process per variant. Run it on a quiet machine:
what others use is measured and written down.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# What is fast to measure, and small enough for any machine.
QUICK = {"hidden": 256, "layers": 2, "tokens": 256, "rounds": 5}
# The variants whose growth is plotted.
SWEPT = ("floor", "peft", "none", "a", "ab")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; sizes that are not given are the goal's, or small with --quick."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hidden", type=int, help="hidden size, a multiple of 64 (1024)")
    parser.add_argument("--layers", type=int, help="decoder layers (4)")
    parser.add_argument("--rank", type=int, default=16, help="rank of the adapters")
    parser.add_argument("--tokens", type=int, help="tokens of the one example in a step (1024)")
    parser.add_argument("--dtype", default="bf16", help="precisions, comma-separated: bf16, fp32")
    parser.add_argument("--dropout", default="0,0.1", help="dropout of the adapters, comma-separated")
    parser.add_argument("--variants", help="comma-separated; all unless given")
    parser.add_argument("--rounds", type=int, help="measured rounds (15)")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice unless given")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--sweep", action="store_true", help="also vary layers, rank and tokens, one at a time")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds, no memory")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, help="measure peak memory too")
    parser.add_argument("--save", nargs="?", const="", metavar="DIR", help="write files, to benchmarks/results or DIR")
    parser.add_argument("--force", action="store_true", help="save although others use the machine")
    given = parser.parse_args(argv)
    for name, value in (QUICK if given.quick else {"hidden": 1024, "layers": 4, "tokens": 1024, "rounds": 15}).items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    if given.memory is None:
        given.memory = not given.quick
    return given


def check_load(given: argparse.Namespace) -> float:
    """Refuse to save times of a loaded machine, and warn loudly before printing them.

    Raises:
        UserError: others use the machine and the results are to be saved without --force.
    """
    from benchmarks.timing import BUSY_PERCENT, others_now
    from sharelora import UserError

    busy = others_now()
    if busy > BUSY_PERCENT:
        if given.save is not None and not given.force:
            raise UserError(
                f"others use {busy:.0f} % of this machine; times need a quiet one to be saved; "
                "stop them, or pass --force to save all the same"
            )
        print(
            f"\n*** WARNING: others use {busy:.0f} % of this machine. These times mean little, and several threads "
            "that wait for a core can take ten times as long: --threads 1 ***\n",
            file=sys.stderr,
        )
    return busy


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that the command line asks for."""
    import torch

    from benchmarks import cells, growth, report
    from benchmarks.bases import DTYPES
    from benchmarks.comparison import compare, parse_list
    from benchmarks.timing import matmul_rate

    if given.threads:
        torch.set_num_threads(given.threads)
    base = cells.Cell(given.hidden, given.layers, given.rank, given.tokens)
    bases = cells.base_cells(base, *parse_list(given.dtype, given.dropout))
    settings = {**vars(given), "threads": torch.get_num_threads()}
    result = report.facts("train_step", settings)
    result["others_percent_before"] = check_load(given)
    rows = [compare(cell, given, memory=given.memory) for cell in bases]
    if given.sweep:
        # Around the base only what is plotted is measured: the rest says nothing new about growth.
        swept = argparse.Namespace(**{**vars(given), "variants": given.variants or ",".join(SWEPT)})
        rows += [compare(cell, swept, memory=False) for cell in cells.swept_cells(bases)]
    device = torch.device(given.device)
    result["matmul_tflops"] = {name: matmul_rate(device, dtype, 1024) for name, dtype in DTYPES.items()}
    result["cells"] = rows
    result["growth"] = list(growth.series(rows, [cell.data() for cell in bases]))
    return result


def main() -> None:
    """Measure, print, and with --save write JSON, Markdown and a plot."""
    # PEFT asks models for an attribute that transformers has renamed since.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    from benchmarks import growth, report
    from benchmarks.comparison import check_goals, markdown

    given = arguments()
    if given.save is not None:
        given.save = given.save or str(report.RESULTS)
        report.require_writable(Path(given.save))
    result = measure(given)
    result["goals"] = check_goals(result["cells"])
    text = markdown(result)
    if given.save is not None:
        (written,) = report.save([Path(given.save)], result, text)
        if result["growth"]:
            growth.plot(result["growth"], written.with_suffix(".png"))
        print(f"wrote {written} and .md beside it")
    print(text)


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
