"""What a judge is shown of a benchmark, and its ratings of a model's answers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharelora.data.vision.bench import (
    CONTEXT,
    REFERENCES,
    BenchQuestion,
    Rating,
    read_answers,
    read_captions,
    read_ratings,
)
from sharelora.evaluation.vision.judge import Judge
from sharelora.evaluation.vision.llava_bench import REVIEWS, ReviewStore, review, review_rows
from sharelora.support.files import require_writable, write_json_lines


@dataclass(frozen=True)
class Rated:
    """Questions with a reference's answers, ready for a model's.

    Args:
        judge: who rates.
        questions: what is asked.
        references: question's number -> the reference's answer.
        captions: image's name -> what it shows.
        folder: where ratings are kept.
        overwrite: forget those that were made with other settings.
    """

    judge: Judge
    questions: Sequence[BenchQuestion]
    references: Mapping[int, str]
    captions: Mapping[str, str]
    folder: Path
    overwrite: bool

    def rate(self, answers: Mapping[int, str]) -> list[Rating]:
        """Have answers rated, and write the reviews in LLaVA's form.

        Args:
            answers: question's number -> the model's answer.

        Raises:
            UserError: the judge fails, or ratings of other answers lie there.
        """
        messages = {
            question.number: self.judge.message(
                question, self.captions[question.image], self.references[question.number], answers[question.number]
            )
            for question in self.questions
        }
        digest = hashlib.sha256("\0".join(messages.values()).encode()).hexdigest()
        settings = {"judge": self.judge.model, "url": self.judge.url, "messages_sha256": digest}
        store = ReviewStore(require_writable(self.folder), settings, self.overwrite)
        review(self.judge, messages, store)
        path = self.folder / REVIEWS
        write_json_lines(path, review_rows(self.questions, answers, store.found))
        return read_ratings(path)


def read_rated(judge: Judge, folder: Path, questions: Sequence[BenchQuestion], output: Path, overwrite: bool) -> Rated:
    """Read what a judge is shown, before any answer is made.

    Args:
        judge: who rates.
        folder: of the benchmark.
        questions: what is asked.
        output: where ratings are kept.
        overwrite: forget those that were made with other settings.

    Raises:
        UserError: a file is missing or incomplete, or the judge's rules lack a kind of question.
    """
    references = read_answers(folder / REFERENCES, questions)
    captions = read_captions(folder / CONTEXT, questions)
    for question in questions:
        judge.message(question, "", "", "")
    return Rated(judge, questions, references, captions, output, overwrite)
