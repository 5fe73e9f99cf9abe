"""What the commands that put an exam have in common: flags, the course of events, the table."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sharelora.evaluation import command
from sharelora.flags.parser import Parser

if TYPE_CHECKING:
    from sharelora.evaluation.exam import Exam
    from sharelora.evaluation.exam_report import Report

logger = logging.getLogger(__name__)


def add_flags(parser: Parser, output: str) -> None:
    """Add the flags of every exam.

    Args:
        parser: of the command.
        output: the default folder for its files.
    """
    command.add_flags(parser, output, "questions")
    add = parser.add_argument
    add("--prompt", choices=("qlora", "original", "lm_eval"), default="qlora", help="how questions are written down")
    add("--subjects", type=names, metavar="A,B", help="ask only about these; by default about all")
    parser.switch("--skip_too_long", help="leave out, and count, questions that are too long even without examples")
    parser.switch("--no_cache", help="read every prompt whole instead of encoding the examples once")


def choice(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the flags of `add_flags` say about the questions, as every `load_exam` takes it."""
    return {
        "prompt": args.prompt,
        "count": command.count(args),
        "seed": args.seed,
        "root": command.data_root(args),
        "leave_out": args.skip_too_long,
        "subjects": args.subjects,
    }


def names(text: str) -> tuple[str, ...]:
    """Read names separated by commas."""
    found = tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"found {text!r}; need names separated by commas")
    return found


def run(
    args: argparse.Namespace,
    began: float,
    kind: str,
    title: str,
    load: Callable[[argparse.Namespace, Any, int | None], Exam],
) -> None:
    """Check, load, answer, write.

    Args:
        args: the command line.
        began: when the command did, by `time.monotonic`.
        kind: of result.
        title: the exam's name.
        load: makes the exam for the flags, a tokenizer and the most tokens of a prompt.

    Raises:
        UserError: anything that a person can put right; found before the model is loaded wherever it can be.
    """
    from sharelora.evaluation.exam_report import examine
    from sharelora.models.load import load_tokenizer
    from sharelora.reporting.progress import Progress
    from sharelora.support.files import require_writable

    subject = command.locate(args)
    exam = load(args, load_tokenizer(subject.base), command.room(args, subject))
    if args.dry_run:
        logger.info("dry run: %s, %d questions; nothing was written", subject, len(exam.questions))
        return
    folder = require_writable(args.output)
    model = command.load_model(args, subject)
    report = examine(model, exam, args.batch_size, not args.no_cache, Progress(title))
    command.write(args, kind, subject, model, report.rows(), report.metrics(), time.monotonic() - began)
    print(table(f"{title} {args.split}, {exam.asked}-shot, {args.prompt} prompt", report))
    print(f"wrote {folder}")


def table(title: str, report: Report) -> str:
    """The result in a few lines."""
    found = report.metrics()
    groups = found["categories"] or found["subjects"]
    rows = [(name, score["accuracy"], score["stderr"], score["count"]) for name, score in groups.items()]
    rows += [
        ("all questions", found["accuracy"], found["accuracy_stderr"], found["questions"]),
        ("mean over subjects", found["accuracy_macro"], found["accuracy_macro_stderr"], len(found["subjects"])),
        ("guessing", found["chance"], None, found["questions"]),
    ]
    lost = sum(found["left_out"].values())
    lines = [title + (f"; {lost} too long questions NOT ASKED" if lost else "")]
    lines += [f"  {name:<20}{mean:8.4f} {_error(error)}{count:8,}" for name, mean, error, count in rows]
    saved = found["prompt_tokens"] / max(1, found["tokens"])
    speed = f"{found['tokens']:,} tokens read for {found['prompt_tokens']:,} of prompts ({saved:.1f}x fewer)"
    lines.append(f"  {speed} in {found['seconds']:.1f} s")
    if found["ties"]:
        lines.append(f"  {found['ties']} questions with two equally likely letters: the first was taken")
    return "\n".join(lines)


def _error(error: float | None) -> str:
    return " " * 9 if error is None else f"± {error:.4f} "
