"""An exam answered by a model: every question's record, all numbers, a table, and the command that writes them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sharelora.data.questions import LETTERS
from sharelora.evaluation.batching import Listener
from sharelora.evaluation.exams import Exam, ExamOptions, PreparedExam, load_exam
from sharelora.evaluation.multiple_choice import Scored, answer
from sharelora.evaluation.subject import data_root, locate_subject, write_evaluation
from sharelora.metrics import accuracy
from sharelora.models.load import load_tokenizer
from sharelora.reporting.progress import Progress
from sharelora.support.files import require_writable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExamReport:
    """An exam and its answers.

    Args:
        exam: the questions.
        scored: the answers.
        seconds: wall clock time of answering.
    """

    exam: PreparedExam
    scored: Scored
    seconds: float

    @property
    def right(self) -> list[bool]:
        """For each question, whether the answer is right."""
        pairs = zip(self.exam.questions, self.scored.choices, strict=True)
        return [LETTERS[choice.prediction] == question.answer for question, choice in pairs]

    def rows(self) -> list[dict[str, Any]]:
        """One record per question: the question, the answer, and the log-probability of every letter."""
        exam = self.exam
        parts = zip(exam.questions, exam.encoded, exam.shots, self.scored.choices, self.right, strict=True)
        return [
            {
                **({"id": question.id} if question.id else {}),
                "subject": question.subject,
                "question": question.question,
                "choices": list(question.choices),
                "answer": question.answer,
                "prediction": LETTERS[choice.prediction],
                "right": right,
                "scores": dict(zip(LETTERS, choice.scores, strict=False)),
                "shots": shots,
                "prompt_tokens": encoded.length,
            }
            for question, encoded, shots, choice, right in parts
        ]

    def metrics(self) -> dict[str, Any]:
        """Every number of the report.

        `accuracy` counts all questions alike (micro); `accuracy_macro` counts all subjects alike, as QLoRA does.
        `loss` is the mean of -log p(right letter) over the whole vocabulary. `ties` counts the questions on which two
        letters share the highest score.
        """
        subjects = accuracy.by_group(self.right, [question.subject for question in self.exam.questions])
        micro, categories = accuracy.micro(subjects), self.exam.categories
        return {
            "accuracy": micro.mean,
            "accuracy_stderr": micro.standard_error,
            "accuracy_macro": accuracy.macro(subjects),
            "accuracy_macro_stderr": accuracy.macro_standard_error(subjects),
            "chance": accuracy.chance([len(question.choices) for question in self.exam.questions]),
            "loss": self.loss,
            "questions": micro.count,
            "right": micro.right,
            "ties": sum(choice.tied for choice in self.scored.choices),
            "tokens": self.scored.tokens,
            "prompt_tokens": self.scored.prompt_tokens,
            "prompts_read_whole": self.scored.whole,
            "batch_size": self.scored.batch_size,
            "seconds": self.seconds,
            "tokens_per_second": self.scored.tokens / max(self.seconds, 1e-9),
            "categories": accuracy.table(accuracy.by_category(subjects, categories.__getitem__)) if categories else {},
            "subjects": accuracy.table(subjects),
            "fewer_examples": self.exam.shortened,
            "left_out": dict(self.exam.left_out),
            **self.exam.remarks,
        }

    @property
    def loss(self) -> float:
        """The mean of -log p(right letter)."""
        pairs = zip(self.exam.questions, self.scored.choices, strict=True)
        return -math.fsum(choice.scores[LETTERS.index(question.answer)] for question, choice in pairs) / len(self.right)


def examine(
    model: Any,
    exam: PreparedExam,
    batch_size: int | str = "auto",
    share_prefix: bool = True,
    listener: Listener | None = None,
) -> ExamReport:
    """Let a model answer an exam.

    Args:
        model, batch_size, share_prefix, listener: see `sharelora.evaluation.multiple_choice.answer`.
        exam: the questions.
    """
    began = time.perf_counter()
    scored = answer(model, exam.encoded, batch_size, share_prefix, listener)
    return ExamReport(exam, scored, time.perf_counter() - began)


def run(exam: Exam, options: ExamOptions, began: float) -> None:
    """Prepare an exam, load the model, answer, write and print.

    Args:
        exam: which one.
        options: the flags.
        began: when the command did, by `time.monotonic`.

    Raises:
        UserError: an error that the user can fix; found before the model is loaded wherever possible.
    """
    subject = locate_subject(options)
    tokenizer = load_tokenizer(subject.base)
    begin = subject.begin(tokenizer, options.bos)
    prepared = load_exam(
        exam,
        tokenizer,
        options.split,
        options.shots,
        subject.context(options.max_length),
        prompt=options.prompt,
        count=options.count,
        seed=options.seed,
        root=data_root(options.data_root, options.tiny),
        leave_out=options.skip_too_long,
        subjects=options.subjects,
        begin=begin.ids,
    )
    subject.require_embeddings(tokenizer, prepared.encoded)
    if options.dry_run:
        logger.info("dry run: %s, %d questions; nothing was written", subject, len(prepared.questions))
        return
    folder = require_writable(options.output)
    model = subject.load(options)
    report = examine(model, prepared, options.batch_size, not options.no_cache, Progress(exam.title))
    metrics = report.metrics()
    write_evaluation(options, exam.name, subject, model, report.rows(), metrics, time.monotonic() - began, begin)
    shots, prompt = prepared.wanted_shots, options.prompt
    print(table(f"{exam.title} {options.split}, {shots}-shot, {prompt} prompt", metrics))
    print(f"{begin.line()}\nwrote {folder}")


def table(title: str, metrics: Mapping[str, Any]) -> str:
    """The result in a few lines."""
    groups = metrics["categories"] or metrics["subjects"]
    rows = [(name, group["accuracy"], group["stderr"], group["count"]) for name, group in groups.items()]
    rows += [
        ("all questions", metrics["accuracy"], metrics["accuracy_stderr"], metrics["questions"]),
        ("mean over subjects", metrics["accuracy_macro"], metrics["accuracy_macro_stderr"], len(metrics["subjects"])),
        ("guessing", metrics["chance"], None, metrics["questions"]),
    ]
    skipped = sum(metrics["left_out"].values())
    lines = [title + (f"; {skipped} too long questions NOT ASKED" if skipped else "")]
    for name, mean, error, count in rows:
        shown = " " * 9 if error is None else f"± {error:.4f} "
        lines.append(f"  {name:<20}{mean:8.4f} {shown}{count:8,}")
    ratio = metrics["prompt_tokens"] / max(1, metrics["tokens"])
    speed = f"{metrics['tokens']:,} tokens read for {metrics['prompt_tokens']:,} of prompts ({ratio:.1f}x fewer)"
    lines.append(f"  {speed} in {metrics['seconds']:.1f} s")
    if metrics["ties"]:
        lines.append(f"  {metrics['ties']} questions with two equally likely letters: the first was taken")
    return "\n".join(lines)
