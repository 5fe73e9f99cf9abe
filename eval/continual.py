"""Tune one adapter on several tasks one after the other, score every task after every stage, say what was forgotten.

    python eval/continual.py --model DIR --share none a b ab --output runs/continual --lora_r 8 --max_steps 200

Every other flag goes to the tuning of every stage: see `qlora_share/qlora_share.py --help`. Each way of sharing has a
folder with its stages and `result.json`; `continual.md` and a heat map put them side by side. A stage that is done is
not done again. `--tiny` runs the same on the project's own small model and data.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sharelora.flags.parser import Parser, positive, tiny_environment, unknown_flag
from sharelora.support.errors import UserError

if TYPE_CHECKING:
    from sharelora import continual

logger = logging.getLogger("sharelora.eval.continual")
# Flags of the tuning that this command sets itself -> what to use instead.
OWN = {
    "model_name_or_path": "use --model",
    "output_dir": "use --output",
    "dataset": "use --tasks",
    "dataset_format": "every task has its own; use --tasks",
    "adapter": "the first stage starts anew; drop it",
    "checkpoint": "the first stage starts anew; drop it",
    "overwrite_output_dir": "choose another --output",
    "full_finetune": "adapters are compared; drop it",
    "share_plan": "ways of sharing are compared; use --share",
    "max_mmlu_samples": "use --limit",
}


def parser() -> Parser:
    """Every flag of this command alone."""
    made = Parser("continual.py", "Tune tasks one after the other; any other flag goes to the tuning of every stage.")
    add = made.add_argument
    add("--model", help="folder or hub id of the base model")
    add("--tasks", nargs="+", default=["alpaca", "gsm8k", "code"], help="what is learnt, in this order")
    add("--share", nargs="+", default=["none", "a", "b", "ab"], help="ways of sharing, one after the other")
    add("--score", choices=("answer_loss", "accuracy"), default="answer_loss", help="of every task after every stage")
    add("--limit", type=positive, help="ask this many questions of each task, with --score accuracy")
    add("--output", default="runs/continual", help="folder for the stages and results")
    add("--report", help="folder for continual.md and the heat map; by default that of --output")
    made.switch("--tiny", tiny_environment(), help="use the project's own small model and data, and few updates")
    made.switch("--dry_run", help="check everything, print the plans and estimates, and stop before loading weights")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    began = time.monotonic()
    args, words = read(sys.argv[1:] if argv is None else argv)
    from sharelora.flags import program

    program.start(lambda: args, lambda args: run(args, words, began))


def read(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Divide a command line into this command's flags and the words for the tuning.

    Raises:
        UserError: a flag that neither has, a value without a flag, or a flag that this command sets itself.
    """
    from sharelora.flags.upstream import RULES
    from sharelora.training.instructions.job import build_parser

    own = parser()
    args, words = own.parse_known_args(list(argv))
    args.share = split(args.share)
    args.tasks = split(args.tasks)
    if words and not words[0].startswith("--"):
        raise UserError(f"found the value {words[0]!r} without a flag before it; need --flag value; see --help")
    flags = build_parser().flags
    for word in (word for word in words if word.startswith("--")):
        name = word[2:].partition("=")[0].replace("-", "_")
        if name in OWN:
            raise UserError(f"found --{name}, which this command sets itself; {OWN[name]}")
        if f"--{name}" not in flags and name.removeprefix("no_") not in (*RULES, *(flag[2:] for flag in flags)):
            raise unknown_flag(word, [*own.flags, *flags])
    return args, words


def split(words: Sequence[str]) -> list[str]:
    """Read names with spaces or commas between them."""
    return [name.strip() for word in words for name in word.split(",")]


def run(args: argparse.Namespace, words: Sequence[str], began: float) -> None:
    """Check, tune, score, report.

    Raises:
        UserError: anything that a person can put right; found before a model is loaded wherever it can be.
    """
    from sharelora.continual import report, stages
    from sharelora.support.files import require_writable

    sequence = sequence_of(args, words)
    measures = stages.prepare(sequence)
    if args.dry_run:
        stages.check(sequence, args.share)
        logger.info(
            "dry run: %s, %d stages for each of %d ways of sharing", args.tasks, len(args.tasks), len(args.share)
        )
        return
    require_writable(sequence.output)
    sequence.remember()
    courses = []
    for share in args.share:
        courses.append(stages.run_share(sequence, share, measures))
        report.write_course(sequence, courses[-1])
    made = report.write_document(sequence, courses, Path(args.report or args.output))
    print(report.summary_table(sequence, courses))
    if len(made) == 1:
        print("no heat map: matplotlib is not installed; pip install -e .[plots]")
    print(f"{time.monotonic() - began:.0f} s; wrote {', '.join(map(str, made))}")


def sequence_of(args: argparse.Namespace, words: Sequence[str]) -> continual.TaskSequence:
    """Return the sequence that the flags mean.

    Raises:
        UserError: no model, an unknown way of sharing or one that is there twice, or see `TaskSequence`.
    """
    from sharelora.continual import SHARES, TaskSequence

    unknown = [share for share in args.share if share not in SHARES]
    if unknown or len(set(args.share)) < len(args.share):
        raise UserError(f"found --share {','.join(args.share)}; need some of {', '.join(SHARES)}, each once; change it")
    if args.model is None and not args.tiny:
        raise UserError("found neither --model nor --tiny; need a base model; add --model DIR")
    named = ["--model_name_or_path", args.model] if args.model else []
    return TaskSequence(tuple(args.tasks), args.score, Path(args.output), (*named, *words), args.limit, args.tiny)


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
