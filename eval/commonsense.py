"""Score a language model, with or without an adapter, on the eight commonsense tasks of LLM-Adapters.

    python eval/commonsense.py --model DIR --adapter runs/a --tasks boolq,winogrande --output runs/a_commonsense

`--by likelihood` takes the most likely answer word, `--by generated` the first one that the model writes, `--by both`
does both. Writes `generations.jsonl` while texts end and goes on from there after a kill; then `predictions.jsonl`, one
record per question, and `result.json`. `--generate_only` writes `texts.jsonl` and scores nothing. `--tiny` runs the
same on the project's own small model and data.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sharelora.evaluation import command
from sharelora.evaluation.exam_command import names
from sharelora.flags.parser import Parser

if TYPE_CHECKING:
    from sharelora.data.commonsense import CommonsenseItem
    from sharelora.evaluation.generation.job import Asked, Produced
    from sharelora.evaluation.likelihood import Prepared

logger = logging.getLogger("sharelora.eval.commonsense")

WAYS = {"likelihood": ("likelihood",), "generated": ("generated",), "both": ("likelihood", "generated")}
# Enough for `the correct answer is answer2`, which is what tuning teaches.
MAX_NEW_TOKENS = 32


def parser() -> Parser:
    """Every flag of this command."""
    from sharelora.evaluation.generation import job

    made = Parser("commonsense.py", "Accuracy on eight commonsense tasks, and every answer.")
    command.add_flags(made, "runs/commonsense", "questions")
    add = made.add_argument
    add("--tasks", type=names, metavar="A,B", help="some of the tasks; by default all eight")
    add("--by", choices=tuple(WAYS), default="both", help="what counts as the model's answer")
    job.add_flags(made, MAX_NEW_TOKENS, ())
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Score and report."""
    command.start(parser(), argv, run)


def run(args: argparse.Namespace, began: float, produce: Callable[[Asked, str], Produced] | None = None) -> None:
    """Check, load, answer, write.

    Args:
        args: the command line.
        began: when the command did, by `time.monotonic`.
        produce: replaces `sharelora.evaluation.generation.job.produce`, for tests.

    Raises:
        UserError: anything that a person can put right; found before the model is loaded wherever it can be.
    """
    from sharelora.evaluation.generation import job
    from sharelora.support.files import require_writable

    check(args)
    subject, items = command.locate(args), load_items(args)
    asked, prepared = prepare(args, subject, items)
    if args.dry_run:
        logger.info("dry run: %s, %d questions; nothing was written", subject, len(items))
        return
    require_writable(args.output)
    made = None if asked is None else (produce or job.produce)(asked, "writing")
    if made is not None and args.generate_only:
        keep(args, items, made)
    else:
        score(args, began, subject, items, prepared, made)


def check(args: argparse.Namespace) -> None:
    """Refuse flags that do not go together.

    Raises:
        UserError: the first of them.
    """
    from sharelora.support.errors import UserError

    if args.generate_only and args.by == "likelihood":
        raise UserError("found --generate_only with --by likelihood, which writes no texts; need one; leave one out")
    if args.engine == "vllm" and args.by != "generated" and not args.generate_only:
        raise UserError(f"found --engine vllm with --by {args.by}; need texts alone for it; pass --by generated")


def load_items(args: argparse.Namespace) -> list[CommonsenseItem]:
    """Read the questions that the flags ask for.

    Raises:
        UserError: see `load_commonsense`.
    """
    from sharelora.data.commonsense import load_commonsense

    return command.chosen(args, load_commonsense(args.tasks, command.data_root(args)), lambda item: item.task)


def prepare(
    args: argparse.Namespace, subject: command.Subject, items: Sequence[CommonsenseItem]
) -> tuple[Asked | None, Prepared | None]:
    """Check and tokenise what each way needs; None for a way that the flags do not ask for.

    Raises:
        UserError: prompts that do not fit, or a setting that means nothing.
    """
    from sharelora.evaluation.commonsense import choices, questions
    from sharelora.evaluation.generation import job
    from sharelora.evaluation.likelihood import prepare_answers
    from sharelora.models.load import load_tokenizer

    told, ways = job.settings(args), ("generated",) if args.generate_only else WAYS[args.by]
    asked = job.prepare(args, subject, questions(items), told) if "generated" in ways else None
    if "likelihood" not in ways:
        return asked, None
    return asked, prepare_answers(load_tokenizer(subject.base), choices(items), command.room(args, subject))


def keep(args: argparse.Namespace, items: Sequence[CommonsenseItem], made: Produced) -> None:
    """Write the texts alone."""
    from sharelora.evaluation.commonsense import text_row
    from sharelora.evaluation.generation import job

    rows = [text_row(item, text) for item, text in zip(items, made.texts, strict=True)]
    print(f"{made.line()}\nwrote {command.write_rows(args, rows, job.TEXTS)}; nothing was scored")


def score(
    args: argparse.Namespace,
    began: float,
    subject: command.Subject,
    items: Sequence[CommonsenseItem],
    prepared: Prepared | None,
    made: Produced | None,
) -> None:
    """Answer in each way that was prepared, and report."""
    from sharelora.evaluation.commonsense import Answers, answer_by_likelihood, answer_by_writing, records
    from sharelora.reporting.progress import Progress

    model = None if made is None else made.model
    found: dict[str, Answers] = {}
    if prepared is not None:
        model = command.load_model(args, subject) if model is None else model
        found["likelihood"] = answer_by_likelihood(model, items, prepared, args.batch_size, Progress("likelihood"))
    if made is not None:
        found["generated"] = answer_by_writing(items, made.texts, made.metrics())
    metrics = {name: way.metrics(items) for name, way in found.items()}
    rows = records(items, found)
    command.write(args, "commonsense", subject, model, rows, summary(metrics), time.monotonic() - began)
    print(table(metrics))
    print(f"wrote {args.output}")


def summary(metrics: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the metrics of every way, and their accuracies under names of their own, for comparisons of runs."""
    accuracies = {f"commonsense_{name}": found["accuracy"] for name, found in metrics.items()}
    return {**accuracies, **metrics}


def table(metrics: dict[str, dict[str, Any]]) -> str:
    """The result in a few lines."""
    lines = ["commonsense" + "".join(f"{name:>22}" for name in metrics) + f"{'questions':>12}"]
    (first, *_) = metrics.values()
    for task in first["tasks"]:
        cells = [_cell(found["tasks"][task]["accuracy"], found["tasks"][task]["stderr"]) for found in metrics.values()]
        lines.append(f"{task:<15}{''.join(cells)}{first['tasks'][task]['count']:>8,}")
    cells = [_cell(found["accuracy"], found["accuracy_stderr"]) for found in metrics.values()]
    lines.append(f"{'mean over tasks':<15}{''.join(cells)}{first['questions']:>8,}")
    lines.append(f"{'guessing':<15}{first['chance']:>13.4f}")
    for name, found in metrics.items():
        lost = f"; {found['unanswered']} texts WITHOUT AN ANSWER counted as wrong" if found.get("unanswered") else ""
        lines.append(f"{name}: {found['tokens']:,} tokens in {found['seconds']:.1f} s{lost}")
    return "\n  ".join(lines)


def _cell(mean: float, error: float | None) -> str:
    return f"{mean:>13.4f} " + (" " * 8 if error is None else f"± {error:.4f}")


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
