"""Exams, benchmarks of multiple choice questions with lettered options, and their prompts that fit the model.

A new exam is one more `Exam` at the end. Light: it is imported to read the command line.
"""

from __future__ import annotations

import importlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sharelora.data.mmlu import category, load_mmlu
from sharelora.data.mmlu_pro import has_examples, load_mmlu_pro
from sharelora.data.questions import LETTERS, PROMPTS, Question, examples_for, of_subjects
from sharelora.evaluation.commands import Command, Options, names, spread
from sharelora.evaluation.tokens import Encoded, Item, by_name, encode_items, require_room, too_long
from sharelora.flags.fields import help_field
from sharelora.flags.parser import Parser
from sharelora.support.errors import UserError

logger = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class PreparedExam:
    """Questions that are ready to be asked.

    Args:
        questions: in the order of the split.
        encoded: their prompts.
        shots: how many solved examples each prompt has; fewer than wanted where more would not fit.
        wanted_shots: how many it should have.
        left_out: subject -> the number of its questions that are too long even without examples and are not asked.
        categories: subject -> its category; empty where subjects have none.
        remarks: further facts about the questions, for the result.
    """

    questions: tuple[Question, ...]
    encoded: tuple[Encoded, ...]
    shots: tuple[int, ...]
    wanted_shots: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    categories: Mapping[str, str] = field(default_factory=dict)
    remarks: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shortened(self) -> dict[str, int]:
        """Subject -> the number of its questions with fewer examples than wanted."""
        pairs = zip(self.questions, self.shots, strict=True)
        return dict(sorted(Counter(question.subject for question, shots in pairs if shots < self.wanted_shots).items()))

    def only(self, indices: Sequence[int]) -> PreparedExam:
        """A part of the exam."""
        return replace(
            self,
            questions=tuple(self.questions[index] for index in indices),
            encoded=tuple(self.encoded[index] for index in indices),
            shots=tuple(self.shots[index] for index in indices),
        )


def choose(questions: Sequence[Question], count: int | None, seed: int = 0) -> list[Question]:
    """Choose a sample of questions, spread evenly over the subjects; see `spread`."""
    return [questions[index] for index in spread([question.subject for question in questions], count, seed)]


def prepare(
    tokenizer: Any,
    questions: Sequence[Question],
    solved: Sequence[Question],
    shots: int,
    limit: int | None,
    prompt: str = "qlora",
    leave_out: bool = False,
    begin: Sequence[int] | None = None,
) -> PreparedExam:
    """Write and tokenise the prompts; from one that is too long whole examples are dropped, with a warning.

    The last examples are dropped first, as in the evaluation of Hendrycks et al. 2021; a question itself is never cut.

    Args:
        tokenizer: the model's.
        questions: to ask.
        solved: questions to take the examples from.
        shots: solved examples before every question.
        limit: most tokens of a prompt; None for no limit.
        prompt: how questions are written down, a name of `sharelora.data.questions.PROMPTS`.
        leave_out: skip questions that are too long even without examples, with a warning, instead of raising.
        begin: what prompts begin with; by default the begin token, as in training.

    Raises:
        UserError: a question is too long even without examples, or a subject has too few examples.
    """
    write = PromptWriter(solved, prompt)
    examples = [shots] * len(questions)
    prompts: dict[int, Encoded] = {}
    waiting = list(range(len(questions)))
    while waiting:
        encoded = encode_items(tokenizer, [write(questions[index], examples[index]) for index in waiting], begin)
        prompts.update(zip(waiting, encoded, strict=True))
        waiting = [waiting[index] for index in too_long(encoded, limit) if examples[waiting[index]] > 0]
        for index in waiting:
            examples[index] -= 1
    every = tuple(prompts[index] for index in range(len(questions)))
    exam = PreparedExam(tuple(questions), every, tuple(examples), shots)
    if leave_out:
        exam = _without(exam, too_long(every, limit), limit)
    remedy = "use a model with a longer context, raise the limit if one was given, or pass --skip_too_long"
    require_room(exam.encoded, limit, remedy)
    if exam.shortened:
        logger.warning(
            "warning: %d of %d prompts with %d examples are longer than %s tokens and got fewer examples: %s",
            sum(exam.shortened.values()),
            len(exam.questions),
            shots,
            limit,
            by_name(exam.shortened),
        )
    return exam


def _without(exam: PreparedExam, long: Sequence[int], limit: int | None) -> PreparedExam:
    """Leave out questions that do not fit, with a warning; if none would be left, keep all, to be refused."""
    if not long or len(long) == len(exam.questions):
        return exam
    subjects = [exam.questions[index].subject for index in long]
    logger.warning(
        "warning: %d of %d questions are longer than %s tokens even without examples and are NOT ASKED: %s",
        len(long),
        len(exam.questions),
        limit,
        by_name(subjects),
    )
    fitting = [index for index in range(len(exam.questions)) if index not in set(long)]
    return replace(exam.only(fitting), left_out=dict(sorted(Counter(subjects).items())))


class PromptWriter:
    """Writes questions as items; the beginning of a subject's prompts is written once."""

    def __init__(self, solved: Sequence[Question], prompt: str) -> None:
        self.solved, self.form = solved, PROMPTS[prompt]
        self.prefixes: dict[tuple[str, int], str] = {}

    def __call__(self, question: Question, shots: int) -> Item:
        subject = question.subject
        if (subject, shots) not in self.prefixes:
            self.prefixes[subject, shots] = self.form.prefix(subject, examples_for(self.solved, subject, shots))
        answers = tuple(f" {letter}" for letter in LETTERS[: len(question.choices)])
        return Item(self.prefixes[subject, shots], self.form.item(question), answers, subject)


def load_exam(
    exam: Exam,
    tokenizer: Any,
    split: str,
    shots: int | None,
    limit: int | None,
    prompt: str = "qlora",
    count: int | None = None,
    seed: int = 0,
    root: Path | None = None,
    leave_out: bool = False,
    subjects: Sequence[str] | None = None,
    begin: Sequence[int] | None = None,
) -> PreparedExam:
    """Read a split of an exam and prepare its prompts.

    Args:
        exam: which one.
        tokenizer: the model's.
        split: one of the exam's.
        shots: solved examples before every question; None for as many as there are up to `MOST_SHOTS`, or none, with a
            warning.
        limit: most tokens of a prompt; None for no limit.
        prompt: how questions are written down, a name of `sharelora.data.questions.PROMPTS`.
        count: how many questions to choose, see `choose`; None for all.
        seed: of the choice.
        root: folder of local data; None for what the environment or the hub has.
        leave_out: see `prepare`.
        subjects: ask only about these; None for all.
        begin: see `prepare`.

    Raises:
        UserError: no data, no question asked for, an unknown subject, examples that are the questions themselves or
            do not exist, or a question too long even without examples.
    """
    if shots is None:
        shots = _possible_shots(exam, split, root)
    if split == exam.examples and shots:
        raise UserError(
            f"found split {split} with {shots} examples; need 0, as its questions are the examples themselves; "
            "use --shots 0 or another --split"
        )
    loaded, disagreeing = exam.load(split, root)
    questions = choose(of_subjects(loaded, subjects), count, seed)
    solved = exam.load(exam.examples, root)[0] if shots else []
    prepared = prepare(tokenizer, questions, solved, shots, limit, prompt, leave_out, begin)
    subjects_asked = dict.fromkeys(question.subject for question in prepared.questions)
    categories = {subject: exam.category(subject) for subject in subjects_asked} if exam.category else {}
    if disagreeing is None:
        return replace(prepared, categories=categories)
    ids = {question.id for question in prepared.questions}
    remarks = {"wrong_answer_index": [name for name in disagreeing if name in ids]}
    return replace(prepared, categories=categories, remarks=remarks)


def _possible_shots(exam: Exam, split: str, root: Path | None) -> int:
    if split == exam.examples:
        return 0
    if exam.has_examples(root):
        return MOST_SHOTS
    logger.warning(
        "warning: the validation split of %s, which examples are taken from, is missing: questions are asked "
        "WITHOUT EXAMPLES (0-shot)",
        exam.title,
    )
    return 0


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
