"""Training steps per second on RoBERTa-base shapes: adapters on query and value, ours and other libraries', and a head.

    python benchmarks/glue_step.py                  12 layers of 768, r 8, 8 x 128 tokens; fp32 and bf16 autocast
    python benchmarks/glue_step.py --save           and write the result into benchmarks/results
    python benchmarks/glue_step.py --quick          seconds, to see that it works

All variants live in one process on the very same frozen weights and take turns; medians and quartiles are over rounds,
and ratios are formed within a round. Run it on a quiet machine: what others use is measured and written down.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

FULL = {"hidden": 768, "layers": 12, "batch": 8, "tokens": 128, "rounds": 12}
# What is fast to measure, and small enough for any machine.
QUICK = {"hidden": 128, "layers": 2, "batch": 4, "tokens": 32, "rounds": 5}
VARIANTS = ("floor", "peft", "loralib", "none", "a", "ab")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; sizes that are not given are RoBERTa-base's, or small with --quick."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hidden", type=int, help="hidden size, a multiple of 64 (768)")
    parser.add_argument("--layers", type=int, help="encoder layers (12)")
    parser.add_argument("--rank", type=int, default=8, help="rank of the adapters")
    parser.add_argument("--batch", type=int, help="sentences of a step (8)")
    parser.add_argument("--tokens", type=int, help="tokens of a sentence (128)")
    parser.add_argument("--precision", default="fp32,bf16_autocast", help="comma-separated: fp32, bf16_autocast")
    parser.add_argument("--dropout", type=float, default=0.0, help="dropout of the adapters; LoRA's scripts have none")
    parser.add_argument("--variants", help=f"comma-separated; {','.join(VARIANTS)} unless given")
    parser.add_argument("--rounds", type=int, help="measured rounds (12)")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice unless given")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    parser.add_argument("--save", nargs="?", const="", metavar="DIR", help="write files, to benchmarks/results or DIR")
    parser.add_argument("--force", action="store_true", help="save although others use the machine")
    given = parser.parse_args(argv)
    for name, value in (QUICK if given.quick else FULL).items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    return given


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that the command line asks for.

    Raises:
        UserError: a size that makes no model, an unknown variant or precision, or a loaded machine with --save.
    """
    import torch

    from benchmarks import report
    from benchmarks.encoders import EncoderCell
    from benchmarks.timing import matmul_rate
    from benchmarks.train_step import check_load

    if given.threads:
        torch.set_num_threads(given.threads)
    sizes = (given.hidden, given.layers, given.rank, given.batch, given.tokens)
    cells = [EncoderCell(*sizes, name.strip(), given.dropout) for name in given.precision.split(",")]
    result = report.facts("glue_step", {**vars(given), "threads": torch.get_num_threads()})
    result["others_percent_before"] = check_load(given)
    result["cells"] = [_compare(cell, given) for cell in cells]
    device = torch.device(given.device)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    result["matmul_tflops"] = {name: matmul_rate(device, dtype, 1024) for name, dtype in dtypes.items()}
    return result


def _compare(cell: Any, given: argparse.Namespace) -> dict[str, Any]:
    import torch

    from benchmarks.comparison import describe
    from benchmarks.encoders import prepare
    from benchmarks.timing import OtherLoad, interleave
    from benchmarks.variants import choose

    names = choose(given.variants, "fp32", VARIANTS)
    print(f"measuring {cell.title()}: {', '.join(names)}", file=sys.stderr, flush=True)
    steps = prepare(cell, names, torch.device(given.device))
    with OtherLoad() as load:
        samples = interleave(steps, given.rounds)
    rows = {name: {"adapters": step.adapters, **describe(name, samples)} for name, step in steps.items()}
    return {"cell": cell.data(), "others_percent": load.percent, "variants": rows}


_HEADERS = ("variant", "step ms (quartiles)", "steps/s", "to floor", "faster than PEFT", "optimizer ms", "adapters")


def _line(name: str, found: dict[str, Any]) -> tuple[Any, ...]:
    from benchmarks import report

    whole = found["step"]["median"] + found["optimizer"]["median"]
    return (
        name,
        report.milliseconds(found["step"]),
        f"{1 / whole:.3g}",
        report.times(found["to_floor"]),
        report.times(found["speedup"]),
        report.milliseconds(found["optimizer"]),
        f"{found['adapters']:,}",
    )


def _cell_table(row: dict[str, Any]) -> str:
    from benchmarks import report
    from benchmarks.encoders import EncoderCell
    from benchmarks.timing import BUSY_PERCENT

    others = row["others_percent"]
    loud = " **Not to be relied on.**" if others > BUSY_PERCENT else ""
    lines = report.table(_HEADERS, [_line(name, found) for name, found in row["variants"].items()])
    return (
        f"## {EncoderCell(**row['cell']).title()}\n\nOthers used {others} % of the machine meanwhile.{loud}\n\n{lines}"
    )


def markdown(result: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    from benchmarks import report
    from benchmarks.variants import VARIANTS as ROWS

    names = {name for row in result["cells"] for name in row["variants"]}
    about = "\n".join(f"- `{name}`: {row.about}" for name, row in ROWS.items() if name in names)
    rates = ", ".join(f"{name} {1000 * rate:.0f} GFLOP/s" for name, rate in result["matmul_tflops"].items())
    parts = [report.heading(result) + f"\n- product of two matrices of 1024 x 1024: {rates}"]
    parts += [
        "Step: forward and backward pass, median over rounds; steps/s with the optimizer. The head trains too.\n\n"
        + about
    ]
    parts += [_cell_table(row) for row in result["cells"]]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure, print, and with --save write JSON and Markdown."""
    # PEFT asks models for an attribute that transformers has renamed since.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    from benchmarks import report

    given = arguments()
    if given.save is not None:
        given.save = given.save or str(report.RESULTS)
        report.require_writable(Path(given.save))
    result = measure(given)
    text = markdown(result)
    if given.save is not None:
        (written,) = report.save([Path(given.save)], result, text)
        print(f"wrote {written} and .md beside it")
    print(text)


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
