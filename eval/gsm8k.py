"""Score a language model, with or without an adapter, on GSM8K: it writes worked answers, whose numbers are compared.

    python eval/gsm8k.py --model DIR --adapter runs/a --shots 8 --output runs/a_gsm8k

Writes `generations.jsonl` while it works and goes on from there after a kill; then `predictions.jsonl`, one record per
question, and `result.json`. `--generate_only` writes `texts.jsonl` and scores nothing. `--tiny` runs the same on the
project's own small model and data.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence

from sharelora.evaluation import command
from sharelora.flags.parser import Parser

logger = logging.getLogger("sharelora.eval.gsm8k")


def parser() -> Parser:
    """Every flag of this command."""
    from sharelora.data.gsm8k import SHOTS, STOP
    from sharelora.evaluation.generation import job

    made = Parser("gsm8k.py", "Accuracy on GSM8K, and every worked answer.")
    command.add_flags(made, "runs/gsm8k", "questions")
    add = made.add_argument
    numbers = range(SHOTS + 1)
    add("--shots", type=int, choices=numbers, default=SHOTS, metavar=f"0-{SHOTS}", help="worked examples shown first")
    add("--split", choices=("train", "test"), default="test", help="questions to ask")
    job.add_flags(made, 512, STOP)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Generate, score and report."""
    command.start(parser(), argv, run)


def run(args: argparse.Namespace, began: float) -> None:
    """Check, load, generate, score, write.

    Raises:
        UserError: anything that a person can put right; found before the model is loaded wherever it can be.
    """
    from sharelora.data.gsm8k import load_gsm8k
    from sharelora.evaluation.generation import job
    from sharelora.evaluation.gsm8k import Report, table, text_row, write_prompts

    told, subject = job.settings(args), command.locate(args)
    problems = command.chosen(args, load_gsm8k(args.split, command.data_root(args)))
    asked = job.prepare(args, subject, write_prompts(problems, args.shots), told)
    if args.dry_run:
        logger.info("dry run: %s, %d questions; nothing was written", subject, len(problems))
        return
    made = job.produce(asked, "GSM8K")
    if args.generate_only:
        rows = [text_row(problem, text) for problem, text in zip(problems, made.texts, strict=True)]
        print(f"{made.line()}\nwrote {command.write_rows(args, rows, job.TEXTS)}; nothing was scored")
        return
    report = Report(problems, made.texts)
    metrics = {**report.metrics(), **made.metrics()}
    command.write(args, "gsm8k", subject, made.model, report.rows(), metrics, time.monotonic() - began)
    print(table(f"GSM8K {args.split}, {args.shots}-shot", metrics))
    print(f"{made.line()}\nwrote {args.output}")


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
