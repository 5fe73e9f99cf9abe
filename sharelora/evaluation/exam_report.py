"""An exam answered: every question's record, and all numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sharelora.data.questions import LETTERS
from sharelora.evaluation.exam import Exam
from sharelora.evaluation.multiple_choice import Listener, Scored, answer
from sharelora.metrics import accuracy


@dataclass(frozen=True)
class Report:
    """An exam and its answers.

    Args:
        exam: what was asked.
        scored: what was answered.
        seconds: wall clock time of answering.
    """

    exam: Exam
    scored: Scored
    seconds: float

    @property
    def right(self) -> list[bool]:
        """For each question, whether it was answered right."""
        pairs = zip(self.exam.questions, self.scored.choices, strict=True)
        return [LETTERS[found.prediction] == question.answer for question, found in pairs]

    def rows(self) -> list[dict[str, Any]]:
        """One record per question: what was asked, the answer, and the log-probability of every letter."""
        exam = self.exam
        parts = zip(exam.questions, exam.encoded, exam.shots, self.scored.choices, self.right, strict=True)
        return [
            {
                **({"id": question.id} if question.id else {}),
                "subject": question.subject,
                "question": question.question,
                "choices": list(question.choices),
                "answer": question.answer,
                "prediction": LETTERS[found.prediction],
                "right": right,
                "scores": dict(zip(LETTERS, found.scores, strict=False)),
                "shots": shots,
                "prompt_tokens": encoded.length,
            }
            for question, encoded, shots, found, right in parts
        ]

    def metrics(self) -> dict[str, Any]:
        """Every number of the report.

        `accuracy` counts all questions alike (micro); `accuracy_macro` counts all subjects alike, as QLoRA does.
        `loss` is the mean of -log p(right letter) over the whole vocabulary. `ties` counts the questions on which two
        letters share the highest score.
        """
        subjects = accuracy.by_group(self.right, [question.subject for question in self.exam.questions])
        micro = accuracy.micro(subjects)
        return {
            "accuracy": micro.mean,
            "accuracy_stderr": micro.standard_error,
            "accuracy_macro": accuracy.macro(subjects),
            "accuracy_macro_stderr": accuracy.macro_standard_error(subjects),
            "chance": accuracy.chance([len(question.choices) for question in self.exam.questions]),
            "loss": self.loss,
            "questions": micro.count,
            "right": micro.right,
            "ties": sum(found.tied for found in self.scored.choices),
            "tokens": self.scored.tokens,
            "prompt_tokens": self.scored.prompt_tokens,
            "prompts_read_whole": self.scored.whole,
            "batch_size": self.scored.batch_size,
            "seconds": self.seconds,
            "tokens_per_second": self.scored.tokens / max(self.seconds, 1e-9),
            "categories": self._by_category(subjects),
            "subjects": accuracy.table(subjects),
            "fewer_examples": self.exam.shortened,
            "left_out": dict(self.exam.left_out),
            **self.exam.remarks,
        }

    def _by_category(self, subjects: Mapping[str, accuracy.Accuracy]) -> dict[str, dict[str, Any]]:
        categories = self.exam.categories
        return accuracy.table(accuracy.by_category(subjects, lambda name: categories[name])) if categories else {}

    @property
    def loss(self) -> float:
        """The mean of -log p(right letter)."""
        pairs = zip(self.exam.questions, self.scored.choices, strict=True)
        return -math.fsum(found.scores[LETTERS.index(question.answer)] for question, found in pairs) / len(self.right)


def examine(
    model: Any,
    exam: Exam,
    batch_size: int | str = "auto",
    share_prefix: bool = True,
    listener: Listener | None = None,
) -> Report:
    """Let a model answer an exam.

    Args:
        model, batch_size, share_prefix, listener: see `sharelora.evaluation.multiple_choice.answer`.
        exam: the questions.
    """
    began = time.perf_counter()
    scored = answer(model, exam.encoded, batch_size, share_prefix, listener)
    return Report(exam, scored, time.perf_counter() - began)
