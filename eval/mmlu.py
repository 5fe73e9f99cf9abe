"""Score a language model, with or without an adapter, on MMLU.

    python eval/mmlu.py --model DIR --adapter runs/a --shots 5 --split test --output runs/a_mmlu

Writes `predictions.jsonl`, one record per question, and `result.json`. `--tiny` runs the same on the project's own
small model and data.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sharelora.commandline import Parser
from sharelora.evaluation import command

if TYPE_CHECKING:
    from sharelora.evaluation.mmlu import Exam, Report

logger = logging.getLogger("sharelora.eval.mmlu")


def parser() -> Parser:
    """Every flag of this command."""
    made = Parser("mmlu.py", "Accuracy on MMLU, and every answer with its log-probabilities.")
    command.add_flags(made, "runs/mmlu", "questions")
    add = made.add_argument
    add("--shots", type=int, choices=range(6), default=5, metavar="0-5", help="solved examples before every question")
    add("--split", choices=("dev", "val", "test"), default="test", help="questions to ask")
    add("--prompt", choices=("qlora", "original", "lm_eval"), default="qlora", help="how questions are written down")
    made.switch("--skip_too_long", help="leave out, and count, questions that are too long even without examples")
    made.switch("--no_cache", help="read every prompt whole instead of encoding the examples once")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Score and report."""
    command.start(parser(), argv, run)


def run(args: argparse.Namespace, began: float) -> None:
    """Check, load, answer, write.

    Raises:
        UserError: anything that a person can put right; found before the model is loaded wherever it can be.
    """
    from sharelora.evaluation.mmlu import examine
    from sharelora.evaluation.progress import Progress
    from sharelora.files import require_writable

    subject = command.locate(args)
    exam = load_questions(args, subject)
    if args.dry_run:
        logger.info("dry run: %s, %d questions; nothing was written", subject, len(exam.questions))
        return
    folder = require_writable(args.output)
    model = command.load_model(args, subject)
    report = examine(model, exam, args.batch_size, not args.no_cache, Progress("MMLU"))
    command.write(args, "mmlu", subject, model, report.rows(), report.metrics(), time.monotonic() - began)
    print(table(args, report))
    print(f"wrote {folder}")


def load_questions(args: argparse.Namespace, subject: command.Subject) -> Exam:
    """Read the questions and write prompts that fit the model."""
    from sharelora.evaluation.mmlu import load_exam
    from sharelora.models import load_tokenizer

    return load_exam(
        load_tokenizer(subject.base),
        args.split,
        args.shots,
        command.room(args, subject),
        args.prompt,
        command.count(args),
        args.seed,
        command.data_root(args),
        leave_out=args.skip_too_long,
    )


def table(args: argparse.Namespace, report: Report) -> str:
    """The result in a few lines."""
    found = report.metrics()
    rows = [(name, score["accuracy"], score["stderr"], score["count"]) for name, score in found["categories"].items()]
    rows += [
        ("all questions", found["accuracy"], found["accuracy_stderr"], found["questions"]),
        ("mean over subjects", found["accuracy_macro"], found["accuracy_macro_stderr"], len(found["subjects"])),
        ("guessing", found["chance"], None, found["questions"]),
    ]
    lost = sum(found["left_out"].values())
    title = f"MMLU {args.split}, {args.shots}-shot, {args.prompt} prompt"
    lines = [title + (f"; {lost} too long questions NOT ASKED" if lost else "")]
    lines += [f"  {name:<20}{mean:8.4f} {_error(error)}{count:8,}" for name, mean, error, count in rows]
    saved = found["prompt_tokens"] / max(1, found["tokens"])
    speed = f"{found['tokens']:,} tokens read for {found['prompt_tokens']:,} of prompts ({saved:.1f}x fewer)"
    return "\n".join([*lines, f"  {speed} in {found['seconds']:.1f} s"])


def _error(error: float | None) -> str:
    return " " * 9 if error is None else f"± {error:.4f} "


if __name__ == "__main__":
    from sharelora.errors import run_main

    run_main(main)
