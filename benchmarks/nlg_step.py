"""Training tokens per second on GPT-2 shapes: adapters on query and value, ours, PEFT's and loralib's.

    python benchmarks/nlg_step.py                  GPT-2 small, r 4, 8 rows of 96 tokens (E2E's) and of 512 (LoRA's)
    python benchmarks/nlg_step.py --save           and write the result into benchmarks/results
    python benchmarks/nlg_step.py --quick          seconds, to see that it works

LoRA's recipe fills every row up to 512 tokens; ours fills a batch up to its longest row, about 96 on E2E. Both lengths
are measured for all variants. PEFT cannot adapt parts of a fused layer: there query, key and value have one adapter.

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

FULL = {"hidden": 768, "layers": 12, "batch": 8, "tokens": "96,512", "vocab": 50257, "rounds": 10}
# What is fast to measure, and small enough for any machine.
QUICK = {"hidden": 128, "layers": 2, "batch": 4, "tokens": "32", "vocab": 512, "rounds": 5}
VARIANTS = ("floor", "peft", "loralib", "none", "a", "b", "ab")
OURS = ("none", "a", "b", "ab")
# How many times faster than loralib a step should be.
GOAL = 1.5


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; sizes that are not given are GPT-2 small's, or small with --quick."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hidden", type=int, help="hidden size, a multiple of 64 (768)")
    parser.add_argument("--layers", type=int, help="decoder layers (12)")
    parser.add_argument("--rank", type=int, default=4, help="rank of the adapters")
    parser.add_argument("--batch", type=int, help="rows of a step (8)")
    parser.add_argument("--tokens", help="tokens of a row, comma-separated (96,512)")
    parser.add_argument("--vocab", type=int, help="size of the vocabulary (50257)")
    parser.add_argument("--dropout", default="0,0.1", help="dropout of the adapters, comma-separated")
    parser.add_argument("--variants", help=f"comma-separated; {','.join(VARIANTS)} unless given")
    parser.add_argument("--rounds", type=int, help="measured rounds (10)")
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


def cells(given: argparse.Namespace) -> list[Any]:
    """Return the configurations that the command line asks for.

    Raises:
        UserError: a size that makes no model, or a list of something else than numbers.
    """
    from benchmarks.decoders import DecoderCell
    from sharelora import UserError

    try:
        lengths = [int(value) for value in given.tokens.split(",")]
        dropouts = [float(value) for value in given.dropout.split(",")]
    except ValueError as error:
        raise UserError(f"{error}: --tokens and --dropout are lists of numbers; need e.g. 96,512") from error
    return [
        DecoderCell(given.hidden, given.layers, given.rank, given.batch, tokens, given.vocab, dropout)
        for tokens in lengths
        for dropout in dropouts
    ]


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that the command line asks for.

    Raises:
        UserError: see `cells`; an unknown variant, or a loaded machine with --save.
    """
    import torch

    from benchmarks import report
    from benchmarks.timing import matmul_rate
    from benchmarks.train_step import check_load

    if given.threads:
        torch.set_num_threads(given.threads)
    found = cells(given)
    result = report.facts("nlg_step", {**vars(given), "threads": torch.get_num_threads()})
    result["others_percent_before"] = check_load(given)
    result["cells"] = [_compare(cell, given) for cell in found]
    result["matmul_tflops"] = {"fp32": matmul_rate(torch.device(given.device), torch.float32, 1024)}
    return result


def _compare(cell: Any, given: argparse.Namespace) -> dict[str, Any]:
    import torch

    from benchmarks.decoders import prepare
    from benchmarks.timing import OtherLoad, interleave
    from benchmarks.variants import choose

    names = choose(given.variants, "fp32", VARIANTS)
    print(f"measuring {cell.title()}: {', '.join(names)}", file=sys.stderr, flush=True)
    steps = prepare(cell, names, torch.device(given.device))
    with OtherLoad() as load:
        samples = interleave(steps, given.rounds)
    variants = {
        name: {"trainable": sum(p.numel() for p in step.parameters), **describe(name, samples, cell)}
        for name, step in steps.items()
    }
    return {"cell": cell.data(), "others_percent": load.percent, "variants": variants}


def describe(name: str, samples: dict[str, list[Any]], cell: Any) -> dict[str, Any]:
    """Return times and ratios of a variant; a step here is forward, backward and the optimizer's part."""
    from benchmarks.timing import Sample, Spread, ratio

    whole = {key: [Sample(sample.step + sample.update, 0.0) for sample in found] for key, found in samples.items()}
    own, seconds = whole[name], Spread.of([sample.step for sample in whole[name]])
    others = {key: ratio(whole[key], own).data() for key in ("peft", "loralib") if key in whole}
    return {
        "step": seconds.data(),
        "tokens_per_second": cell.batch * cell.tokens / seconds.median,
        "to_floor": ratio(own, whole["floor"]).data() if "floor" in whole else None,
        "faster_than": others,
    }


_HEADERS = ("variant", "step ms (quartiles)", "tokens/s", "to floor", "faster than PEFT", "than loralib", "trained")


def _line(name: str, found: dict[str, Any]) -> tuple[Any, ...]:
    from benchmarks import report

    faster = found["faster_than"]
    return (
        name,
        report.milliseconds(found["step"]),
        f"{found['tokens_per_second']:,.0f}",
        report.times(found["to_floor"]),
        report.times(faster.get("peft")),
        report.times(faster.get("loralib")),
        f"{found['trainable']:,}",
    )


def _cell_table(row: dict[str, Any]) -> str:
    from benchmarks import report
    from benchmarks.decoders import DecoderCell
    from benchmarks.timing import BUSY_PERCENT

    others = row["others_percent"]
    loud = " **Not to be relied on.**" if others > BUSY_PERCENT else ""
    lines = report.table(_HEADERS, [_line(name, found) for name, found in row["variants"].items()])
    return (
        f"## {DecoderCell(**row['cell']).title()}\n\nOthers used {others} % of the machine meanwhile.{loud}\n\n{lines}"
    )


def goals(result: dict[str, Any]) -> list[str]:
    """Compare what was measured of ours with the goal, and with what is possible at all."""
    lines = []
    for row in result["cells"]:
        cell = f"{row['cell']['tokens']} tokens, dropout {row['cell']['dropout']:g}"
        faster = {name: found["faster_than"].get("loralib") for name, found in row["variants"].items()}
        times = {name: spread["median"] for name, spread in faster.items() if spread is not None}
        if "floor" in times:
            most = f"{times['floor']:.2f}x faster than loralib"
            lines.append(f"- {cell}: the frozen floor itself is {most}, which no adapter can exceed")
        for name in (name for name in OURS if name in times):
            met = "met" if times[name] >= GOAL else "MISSED"
            lines.append(f"- {met}: {name}, {cell}: {times[name]:.2f}x faster than loralib (at least {GOAL})")
    return lines


def recipe(result: dict[str, Any]) -> list[str]:
    """Compare rows per second as the jobs have them: ours at the shorter length, loralib's at the longer one."""
    lines = []
    for dropout in sorted({row["cell"]["dropout"] for row in result["cells"]}):
        found = sorted(
            (row for row in result["cells"] if row["cell"]["dropout"] == dropout),
            key=lambda row: row["cell"]["tokens"],
        )
        short, long = found[0], found[-1]
        theirs = long["variants"].get("loralib")
        for name in OURS if theirs and short is not long else ():
            if name in short["variants"]:
                own = short["variants"][name]
                times = theirs["step"]["median"] / own["step"]["median"]
                lengths = f"{short['cell']['tokens']} tokens a row against {long['cell']['tokens']}"
                lines.append(f"- {name}, dropout {dropout:g}: {times:.1f}x the rows per second, {lengths}")
    return lines


def markdown(result: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    from benchmarks import report
    from benchmarks.variants import VARIANTS as ROWS

    names = {name for row in result["cells"] for name in row["variants"]}
    about = "\n".join(f"- `{name}`: {row.about}" for name, row in ROWS.items() if name in names)
    rates = ", ".join(f"{name} {1000 * rate:.0f} GFLOP/s" for name, rate in result["matmul_tflops"].items())
    parts = [report.heading(result) + f"\n- product of two matrices of 1024 x 1024: {rates}"]
    parts += ["Step: forward, backward and optimizer, median over rounds; fp32.\n\n" + about]
    parts += [_cell_table(row) for row in result["cells"]]
    parts.append("## Goals\n\n" + ("\n".join(goals(result)) or "loralib was not measured."))
    if lines := recipe(result):
        parts.append("## As the jobs fill their rows, against loralib\n\n" + "\n".join(lines))
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
