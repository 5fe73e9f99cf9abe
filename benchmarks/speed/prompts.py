"""What an adapter that is not merged costs where a model reads: prompts of every engine, and the tokens of texts.

    python benchmarks/speed/prompts.py --model DIR        a model that people use
    python benchmarks/speed/prompts.py                    random models with vocabularies of three sizes
    python benchmarks/speed/prompts.py --quick            seconds, to see that it works

All variants live in one process on the very same frozen weights and take turns; ratios are formed within a round. On a
CPU the times are CPU seconds, which others on the machine change less than the clock's.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.harness.command import (
    add_measurement_flags,
    begin_result,
    chosen_names,
    fill,
    measure_and_report,
    new_parser,
)
from benchmarks.harness.machine import load_sentence
from benchmarks.harness.report import milliseconds, table, times
from sharelora.reporting.document import opening
from sharelora.support.errors import run_main

# Reading prompts with an adapter takes at most so many times as long as without.
GOAL = 1.05
READING = ("choice", "likelihood", "first")
VARIANTS = ("floor", "peft", "none", "a")
FULL = {
    "hidden": 512,
    "layers": 4,
    "rank": 16,
    "vocab": "32000,128256,262144",
    "prefix": 520,
    "tokens": 60,
    "rounds": 7,
}
# What is fast to measure, and small enough for any machine.
QUICK = {"hidden": 64, "layers": 2, "rank": 4, "vocab": "512", "prefix": 24, "tokens": 8, "rounds": 2}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--model", help="folder of a model; random ones unless given")
    add("--vocab", help="comma-separated sizes of the random models' vocabularies (32000,128256,262144)")
    add("--hidden", type=int, help="hidden size of the random models (512)")
    add("--layers", type=int, help="their decoder layers (4)")
    add("--dtype", default="bf16,fp32", help="comma-separated: bf16, fp16, fp32")
    add("--variants", default=",".join(VARIANTS), help="see benchmarks/speed/variants.py; floor is without an adapter")
    add("--work", help="some of choice,likelihood,first,following")
    add("--rank", type=int, help="of the adapters (16)")
    add("--prefix", type=int, help="tokens that the questions of a choice share (520)")
    add("--prompts", type=int, default=4, help="prompts at once")
    add("--tokens", type=int, help="of a prompt, the shared ones not counted (60)")
    add("--rounds", type=int, help="measured rounds (7)")
    add("--device", default="cpu", help="cpu or cuda")
    add_measurement_flags(parser, "a small random model")
    args = parser.parse_args(argv)
    return fill(args, QUICK if args.quick else FULL)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that the command line asks for.

    Raises:
        UserError: an unknown variant, precision or work, or a busy machine with --save.
    """
    import torch

    from benchmarks.speed.bases import build_base, stack_config, twin
    from benchmarks.speed.reading import WORK, Reading, Texts, adapted
    from benchmarks.speed.timing import describe, measure_in_turn
    from benchmarks.speed.variants import choose
    from sharelora.evaluation.batching import evaluating
    from sharelora.models.load import load_base

    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    precisions = chosen_names(args.dtype, dtypes, "precision")
    works = chosen_names(args.work, WORK, "work")
    names = choose(args.variants, "fp32", VARIANTS)
    device, result = torch.device(args.device), begin_result("prompts", args)
    sizes = [0] if args.model else [int(size) for size in args.vocab.split(",")]
    result["cells"] = []
    for precision in precisions:
        for size in sizes:
            if args.model:
                loaded: Any = load_base(args.model, dtype=precision)
                base = loaded.to(device)
            else:
                base = build_base(stack_config(args.hidden, args.layers, size), device, dtypes[precision])
            vocab = base.config.get_text_config().vocab_size
            texts = Texts.draw(vocab, args.prefix, args.prompts, args.tokens)
            models = {name: adapted(twin(base), name, args.rank) for name in names}
            about = f"{Path(args.model).name if args.model else 'random'}, vocabulary {vocab:,}, {precision}"
            # As an engine does around all of its batches.
            with ExitStack() as stack:
                for model in models.values():
                    stack.enter_context(evaluating(model))
                for work in works:
                    steps = {name: Reading(model, work, texts) for name, model in models.items()}
                    samples, others = measure_in_turn(f"{about}: {work}", steps, args.rounds)
                    rows = {name: describe(name, samples) for name in names}
                    result["cells"].append({"about": about, "work": work, "others_percent": others, "variants": rows})
    return result


def _line(cell: dict[str, Any], names: list[str]) -> tuple[Any, ...]:
    rows = cell["variants"]
    return (
        cell["about"],
        cell["work"],
        milliseconds(rows["floor"]["step"]) if "floor" in rows else "-",
        *(times(rows[name]["to_floor"]) for name in names),
    )


def goals(result: dict[str, Any]) -> list[str]:
    """Say of the goal whether it is met, for each of our variants that reads prompts."""
    lines = []
    for cell in result["cells"]:
        for name, row in cell["variants"].items():
            if cell["work"] in READING and name not in ("floor", "peft") and row["to_floor"]:
                ratio = row["to_floor"]["median"]
                met = "met" if ratio <= GOAL else "MISSED"
                lines.append(f"{met}: {cell['about']}, {cell['work']}, {name}: {ratio:.3f}x (at most {GOAL})")
    return lines


def markdown(result: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    settings, cells = result["settings"], result["cells"]
    names = [name for name in cells[0]["variants"] if name != "floor"]
    about = (
        f"Adapters of rank {settings['rank']} on all linear modules, not merged. {settings['prompts']} prompts of "
        f"{settings['tokens']} tokens, for a choice behind {settings['prefix']} that they share; {settings['threads']} "
        f"threads, {settings['rounds']} rounds. Milliseconds of the base alone, median and quartiles, and how many "
        f"times as long it takes with an adapter. {load_sentence(max(cell['others_percent'] for cell in cells))}"
    )
    lines = [_line(cell, names) for cell in cells]
    parts = [opening(result), about, table(("model", "work", "base ms", *names), lines)]
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in goals(result))]) + "\n"


def main() -> None:
    """Measure, print, and with --save write JSON and Markdown."""
    measure_and_report(arguments(), measure, markdown)


if __name__ == "__main__":
    run_main(main)
