"""Lettered questions as an exam: choose some, and write their prompts so that they fit."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sharelora.data.questions import LETTERS, PROMPTS, Question, examples_for
from sharelora.evaluation.encoding import Encoded, Item, by_name, encode_items, require_room, too_long
from sharelora.evaluation.sampling import spread

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exam:
    """Questions that are ready to be asked.

    Args:
        questions: in the order of the split.
        encoded: their prompts.
        shots: how many solved examples each prompt has; fewer than asked for where more would not fit.
        asked: how many it should have.
        left_out: subject -> the number of its questions that are too long even without examples and are not asked.
        categories: subject -> its category; empty where subjects have none.
        remarks: what else the result says about the questions.
    """

    questions: tuple[Question, ...]
    encoded: tuple[Encoded, ...]
    shots: tuple[int, ...]
    asked: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    categories: Mapping[str, str] = field(default_factory=dict)
    remarks: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shortened(self) -> dict[str, int]:
        """Subject -> the number of its questions with fewer examples than asked for."""
        pairs = zip(self.questions, self.shots, strict=True)
        return dict(sorted(Counter(question.subject for question, shots in pairs if shots < self.asked).items()))

    def only(self, indices: Sequence[int]) -> Exam:
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
) -> Exam:
    """Write and tokenise the prompts; where one is too long, whole examples are left out and that is said.

    The last examples go first, as in the evaluation of Hendrycks et al. 2021; a question itself is never cut.

    Args:
        tokenizer: the model's.
        questions: what is asked.
        solved: questions to take the examples from.
        shots: solved examples before every question.
        limit: most tokens of a prompt; None for no limit.
        prompt: how questions are written down, a name of `sharelora.data.questions.PROMPTS`.
        leave_out: do not ask questions that are too long even without examples, and say so, instead of raising.

    Raises:
        UserError: a question is too long even without examples, or a subject has too few examples.
    """
    write = Writer(solved, prompt)
    shown = [shots] * len(questions)
    encoded: list[Encoded | None] = [None] * len(questions)
    waiting = list(range(len(questions)))
    while waiting:
        items = [write(questions[index], shown[index]) for index in waiting]
        found = encode_items(tokenizer, items)
        for index, row in zip(waiting, found, strict=True):
            encoded[index] = row
        waiting = [waiting[place] for place in too_long(found, limit) if shown[waiting[place]] > 0]
        for index in waiting:
            shown[index] -= 1
    done = tuple(row for row in encoded if row is not None)
    exam = Exam(tuple(questions), done, tuple(shown), shots)
    if leave_out:
        exam = _without(exam, too_long(done, limit), limit)
    ways = "use a model with a longer context, raise the limit if one was given, or pass --skip_too_long"
    require_room(exam.encoded, limit, ways)
    _tell_shortened(exam, limit)
    return exam


def _without(exam: Exam, long: Sequence[int], limit: int | None) -> Exam:
    """Leave out questions that do not fit, and say so; where none would be left, all stay, to be refused."""
    if not long or len(long) == len(exam.questions):
        return exam
    names = [exam.questions[index].subject for index in long]
    logger.warning(
        "warning: %d of %d questions are longer than %s tokens even without examples and are NOT ASKED: %s",
        len(long),
        len(exam.questions),
        limit,
        by_name(names),
    )
    kept = [index for index in range(len(exam.questions)) if index not in set(long)]
    return replace(exam.only(kept), left_out=dict(sorted(Counter(names).items())))


class Writer:
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


def _tell_shortened(exam: Exam, limit: int | None) -> None:
    if not exam.shortened:
        return
    names = [question.subject for question, n in zip(exam.questions, exam.shots, strict=True) if n < exam.asked]
    logger.warning(
        "warning: %d of %d prompts with %d examples are longer than %s tokens and got fewer examples: %s",
        len(names),
        len(exam.questions),
        exam.asked,
        limit,
        by_name(names),
    )
