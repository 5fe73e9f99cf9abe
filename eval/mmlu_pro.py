"""Score a language model, with or without an adapter, on MMLU-Pro: up to ten options, no chain of thought.

    python eval/mmlu_pro.py --model DIR --adapter runs/a --output runs/a_mmlu_pro

Five solved examples stand before every question where the validation split is there, otherwise none, which is said.
Writes `predictions.jsonl`, one record per question, and `result.json`. `--tiny` runs the same on the project's own
small model and data.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sharelora.evaluation import command, exam_command
from sharelora.flags.parser import Parser

if TYPE_CHECKING:
    from sharelora.evaluation.exam import Exam


def parser() -> Parser:
    """Every flag of this command."""
    made = Parser("mmlu_pro.py", "Accuracy on MMLU-Pro, and every answer with its log-probabilities.")
    exam_command.add_flags(made, "runs/mmlu_pro")
    add = made.add_argument
    shots = "solved examples before every question; by default 5 if there are any, else 0"
    add("--shots", type=int, choices=range(6), metavar="0-5", help=shots)
    add("--split", choices=("val", "test"), default="test", help="questions to ask")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Score and report."""
    command.start(parser(), argv, run)


def run(args: argparse.Namespace, began: float) -> None:
    """Check, load, answer, write.

    Raises:
        UserError: anything that a person can put right; found before the model is loaded wherever it can be.
    """
    exam_command.run(args, began, "mmlu_pro", "MMLU-Pro", load)


def load(args: argparse.Namespace, tokenizer: Any, room: int | None) -> Exam:
    """Read the questions and write prompts that fit the model.

    Args:
        args: the command line.
        tokenizer: the model's.
        room: most tokens of a prompt; None for no limit.

    Raises:
        UserError: see `load_exam`.
    """
    from sharelora.evaluation.mmlu_pro import load_exam

    return load_exam(tokenizer, args.split, args.shots, room, **exam_command.choice(args))


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
