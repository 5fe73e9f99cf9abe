"""Score a language model, with or without an adapter, on the eight commonsense tasks of LLM-Adapters.

    python eval/commonsense.py --model DIR --adapter runs/a --tasks boolq,winogrande --output runs/a_commonsense

`--by likelihood` takes the most likely answer word, `--by generated` the first one that the model writes, `--by both`
does both. Writes `predictions.jsonl`, one record per question, and `result.json`. `--tiny` runs the same on the
project's own small model and data.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sharelora.commandline import Parser, positive
from sharelora.evaluation import command
from sharelora.evaluation.exam_command import names

if TYPE_CHECKING:
    from sharelora.data.commonsense import CommonsenseItem
    from sharelora.evaluation.commonsense import Answers, Writer
    from sharelora.evaluation.likelihood import Prepared
    from sharelora.evaluation.multiple_choice import Listener

logger = logging.getLogger("sharelora.eval.commonsense")

WAYS = {"likelihood": ("likelihood",), "generated": ("generated",), "both": ("likelihood", "generated")}


def parser() -> Parser:
    """Every flag of this command."""
    made = Parser("commonsense.py", "Accuracy on eight commonsense tasks, and every answer.")
    command.add_flags(made, "runs/commonsense", "questions")
    add = made.add_argument
    add("--tasks", type=names, metavar="A,B", help="some of the tasks; by default all eight")
    add("--by", choices=tuple(WAYS), default="likelihood", help="what counts as the model's answer")
    add("--max_new_tokens", type=positive, default=32, help="most tokens of a written answer")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Score and report."""
    command.start(parser(), argv, run)


def run(args: argparse.Namespace, began: float, make_writer: Callable[..., Writer] | None = None) -> None:
    """Check, load, answer, write.

    Args:
        args: the command line.
        began: when the command did, by `time.monotonic`.
        make_writer: replaces `writer`, for tests.

    Raises:
        UserError: anything that a person can put right; found before the model is loaded wherever it can be.
    """
    from sharelora.evaluation.commonsense import choices, records
    from sharelora.evaluation.likelihood import prepare_answers
    from sharelora.files import require_writable
    from sharelora.models import load_tokenizer

    subject = command.locate(args)
    items, tokenizer = load_items(args), load_tokenizer(subject.base)
    prepared = prepare_answers(tokenizer, choices(items), command.room(args, subject))
    if args.dry_run:
        logger.info("dry run: %s, %d questions; nothing was written", subject, len(items))
        return
    folder = require_writable(args.output)
    model = command.load_model(args, subject)
    ways = answer(args, model, tokenizer, items, prepared, make_writer or writer)
    metrics = {name: way.metrics(items) for name, way in ways.items()}
    rows = records(items, ways)
    command.write(args, "commonsense", subject, model, rows, summary(metrics), time.monotonic() - began)
    print(table(metrics))
    print(f"wrote {folder}")


def load_items(args: argparse.Namespace) -> list[CommonsenseItem]:
    """Read the questions that the flags ask for.

    Raises:
        UserError: see `load_commonsense`.
    """
    from sharelora.data.commonsense import load_commonsense
    from sharelora.evaluation.sampling import spread

    found = load_commonsense(args.tasks, command.data_root(args))
    return [found[index] for index in spread([item.task for item in found], command.count(args), args.seed)]


def answer(
    args: argparse.Namespace,
    model: Any,
    tokenizer: Any,
    items: Sequence[CommonsenseItem],
    prepared: Prepared,
    make_writer: Callable[..., Writer],
) -> dict[str, Answers]:
    """Answer in each way that the flags ask for; name of the way -> answers."""
    from sharelora.evaluation.commonsense import answer_by_likelihood, answer_by_writing
    from sharelora.evaluation.progress import Progress

    found = {}
    if "likelihood" in WAYS[args.by]:
        listener = Progress("likelihood")
        found["likelihood"] = answer_by_likelihood(model, items, prepared, args.batch_size, listener)
    if "generated" in WAYS[args.by]:
        found["generated"] = answer_by_writing(items, make_writer(args, model, tokenizer, Progress("writing")))
    return found


def writer(args: argparse.Namespace, model: Any, tokenizer: Any, listener: Listener) -> Writer:
    """Return what lets the model write, greedily."""
    from sharelora.evaluation.generation import GenerationSettings, Prompt, generate

    settings = GenerationSettings(max_new_tokens=args.max_new_tokens)

    def write(pairs: Sequence[tuple[str, str]]) -> Any:
        asked = [Prompt(prefix, text) for prefix, text in pairs]
        return generate(model, tokenizer, asked, settings, args.batch_size, listener=listener)

    return write


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
    for name, found in metrics.items():
        lost = f"; {found['unanswered']} texts WITHOUT AN ANSWER counted as wrong" if found.get("unanswered") else ""
        lines.append(f"{name}: {found['tokens']:,} tokens in {found['seconds']:.1f} s{lost}")
    return "\n  ".join(lines)


def _cell(mean: float, error: float | None) -> str:
    return f"{mean:>13.4f} " + (" " * 8 if error is None else f"± {error:.4f}")


if __name__ == "__main__":
    from sharelora.errors import run_main

    run_main(main)
