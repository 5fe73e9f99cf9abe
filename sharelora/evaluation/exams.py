"""Exams: benchmarks of multiple choice questions with lettered options. A new one is one more `Exam` below."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharelora.data.mmlu import category, load_mmlu
from sharelora.data.mmlu_pro import has_examples, load_mmlu_pro
from sharelora.data.questions import PROMPTS, Question
from sharelora.evaluation.commands import Command, Options, names
from sharelora.flags.fields import help_field
from sharelora.flags.parser import Parser

MOST_SHOTS = 5
# Questions, and the ids of those whose source contradicts itself about the answer; None where it names only one.
Loaded = tuple[Sequence[Question], Sequence[str] | None]


@dataclass(frozen=True)
class ExamOptions(Options):
    """The flags of every exam."""

    prompt: str = help_field("qlora", "how questions are written down", choices=tuple(PROMPTS))
    subjects: tuple[str, ...] | None = help_field(
        None, "ask only about these; by default about all", type=names, metavar="A,B"
    )
    skip_too_long: bool = help_field(False, "leave out, and count, questions that are too long even without examples")
    no_cache: bool = help_field(False, "read every prompt whole instead of reading the examples once")
    # Added by `Exam.parser`, with the exam's own splits and default.
    shots: int | None = None
    split: str = "test"


@dataclass(frozen=True, kw_only=True)
class Exam(Command):
    """A benchmark of multiple choice questions with lettered options.

    Args:
        title: its name in messages and tables.
        load: reads the questions of a split, from a folder of data sets or the hub.
        splits: names of the splits that can be asked.
        examples: the split that solved examples come from.
        shots: solved examples before every question by default; None for `MOST_SHOTS` if there are any, else none.
        has_examples: whether a folder of data sets has that split; needed where `shots` is None.
        category: of a subject, for a score of each category; None where subjects have no categories.
    """

    options: type[Options] = ExamOptions
    module: str = "sharelora.evaluation.exam_report"
    title: str
    load: Callable[[str, Path | None], Loaded]
    splits: tuple[str, ...]
    examples: str
    shots: int | None = MOST_SHOTS
    has_examples: Callable[[Path | None], bool] = lambda root: True
    category: Callable[[str], str] | None = None

    def parser(self, skip: Collection[str] = ()) -> Parser:
        """Return the parser with every flag of this exam."""
        parser = super().parser((*skip, "shots", "split"))
        add = parser.add_argument_group("questions").add_argument
        about = "solved examples before every question" + (
            f"; by default {MOST_SHOTS} if there are any, else 0" if self.shots is None else ""
        )
        add("--shots", type=int, choices=range(MOST_SHOTS + 1), default=self.shots, metavar="0-5", help=about)
        add("--split", choices=self.splits, default="test", help="questions to ask")
        return parser

    def run(self, options: Options, began: float) -> None:
        """See `Command.run`."""
        importlib.import_module(self.module).run(self, options, began)


def _load_mmlu(split: str, root: Path | None) -> Loaded:
    return load_mmlu(split, root), None


def _load_mmlu_pro(split: str, root: Path | None) -> Loaded:
    loaded = load_mmlu_pro(split, root)
    return loaded.questions, loaded.disagreeing


MMLU = Exam(
    name="mmlu",
    title="MMLU",
    description="Accuracy on MMLU, and every answer with its log-probabilities.",
    load=_load_mmlu,
    splits=("dev", "val", "test"),
    examples="dev",
    category=category,
)
# Its subjects are its 14 categories. No chain of thought: the answer is the letter that the model finds most likely.
MMLU_PRO = Exam(
    name="mmlu_pro",
    title="MMLU-Pro",
    description="Accuracy on MMLU-Pro, and every answer with its log-probabilities.",
    load=_load_mmlu_pro,
    splits=("val", "test"),
    examples="val",
    shots=None,
    has_examples=has_examples,
)
